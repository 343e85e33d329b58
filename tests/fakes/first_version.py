"""Both ends of version 1.0 of the wire, made of nothing but that version's own descriptors.

with FirstServer(credentials) as server:
    register(open_channel(server.address, ...))  # today's client meets yesterday's server
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from tests.contract.wire.record import DESCRIPTORS, Wire

FIRST = Wire((Path(__file__).parents[1] / "contract" / "wire" / "v1_0" / DESCRIPTORS).read_bytes())
TIMEOUT_S = 20.0


def message(kind: str, **fields: Any) -> Any:
    """A message as 1.0 knew it."""
    return FIRST.kind(kind)(**fields)


class FirstClient:
    """Calls as a client of 1.0 does."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def one(self, service: str, method: str, request: Any) -> Any:
        path, answer = _found(service, method)
        call = self._channel.unary_unary(path, _bytes, answer)
        return call(request, timeout=TIMEOUT_S)

    def many(self, service: str, method: str, request: Any) -> Any:
        path, answer = _found(service, method)
        return self._channel.unary_stream(path, _bytes, answer)(request, timeout=TIMEOUT_S)

    def send(self, service: str, method: str, requests: Iterable[Any]) -> Any:
        path, answer = _found(service, method)
        return self._channel.stream_unary(path, _bytes, answer)(iter(requests), timeout=TIMEOUT_S)


def _found(service: str, method: str) -> tuple[str, Callable[[bytes], Any]]:
    described = FIRST.pool.FindServiceByName(f"hansa.v1.{service}").methods_by_name[method]
    return f"/hansa.v1.{service}/{method}", FIRST.kind(described.output_type.name).FromString


def _bytes(sent: Any) -> bytes:
    return bytes(sent.SerializeToString())


class FirstServer:
    """Registers clients as a server of 1.0 did, which compared the version for equality."""

    def __init__(self, credentials: grpc.ServerCredentials) -> None:
        self.registered: list[Any] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        register = grpc.unary_unary_rpc_method_handler(
            self._register, FIRST.kind("RegisterRequest").FromString, _bytes
        )
        handlers = {"Register": register}
        generic = grpc.method_handlers_generic_handler("hansa.v1.Federation", handlers)
        self._server.add_generic_rpc_handlers((generic,))
        self.address = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"

    def __enter__(self) -> "FirstServer":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def _register(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.protocol != "1":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this server speaks version 1")
        self.registered.append(request)
        return message("Session", session=1, heartbeat_period_ms=2000, merchant="harbour")
