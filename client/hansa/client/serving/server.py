"""The merchant's own gRPC port: Retail and health behind mutual TLS, and nothing else.

There is no plaintext mode: a program without a certificate of the merchant's own authority cannot
even send a request. More requests than ``max_concurrent`` at once are refused with
RESOURCE_EXHAUSTED, and so is a message above 64 KiB.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from pydantic import BaseModel, ConfigDict, Field

from hansa.client.serving.latency import Latency
from hansa.client.serving.retail import ActiveRelease, RetailService
from hansa.core.errors import InvalidInputError
from hansa.protos.v1 import retail_pb2, retail_pb2_grpc

_RETAIL: str = retail_pb2.DESCRIPTOR.services_by_name["Retail"].full_name
_NAMES = ("", _RETAIL)


class ServingSettings(BaseModel):
    """Where the port is and how much it bears."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """0 takes any free port."""
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    """Requests that are worked on at once; about the number of CPU cores."""
    max_concurrent: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Requests at work and in the queue together, health checks included."""
    max_request_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = 64 * 1024
    reflection: bool = False
    """Lets tools such as grpcurl ask for the service's description."""


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM bytes of the merchant's own TLS: who the port is, and whose certificates it accepts."""

    key: bytes = field(repr=False)
    chain: bytes
    client_authority: bytes


class RetailServer:
    """A running port. Start it once; ``activate`` as often as there is a new release."""

    def __init__(
        self, settings: ServingSettings, tls: TlsFiles, *, clock: Callable[[], float]
    ) -> None:
        """Binds the port; nothing is answered before ``start``. ``clock``: monotonic seconds.

        Raises:
            InvalidInputError: the address cannot be bound, the PEM bytes are not usable, or
                reflection is wanted and not installed.
        """
        self._service = RetailService(clock=clock)
        self._health = health.HealthServicer()
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="retail")
        self._server = grpc.server(
            pool, options=_options(settings), maximum_concurrent_rpcs=settings.max_concurrent
        )
        retail_pb2_grpc.add_RetailServicer_to_server(self._service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            _enable_reflection(self._server)
        self._port = _bind(self._server, f"{settings.host}:{settings.port}", tls)

    @property
    def port(self) -> int:
        """The TCP port that is bound."""
        return self._port

    def start(self) -> None:
        """Begins to answer."""
        self._server.start()

    def activate(self, release: ActiveRelease) -> None:
        """Swaps the release without a pause; the first one makes the port healthy."""
        self._service.activate(release)
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    @property
    def active(self) -> ActiveRelease | None:
        """The release that answers now."""
        return self._service.active

    def latency(self) -> dict[str, Latency]:
        """Figures of each method's successful answers since the start."""
        return self._service.latency()

    def stop(self, grace_s: float) -> None:
        """Refuses new requests at once and gives those under way ``grace_s`` seconds."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()

    def _set_health(self, status: int) -> None:
        for name in _NAMES:
            self._health.set(name, status)


def _options(settings: ServingSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.max_concurrent_streams", settings.max_concurrent),
        ("grpc.so_reuseport", 0),
    ]


def _enable_reflection(server: grpc.Server) -> None:
    """The package is not part of a merchant's installation, so it is imported only here."""
    try:
        from grpc_reflection.v1alpha import reflection
    except ImportError as error:
        raise InvalidInputError(
            "reflection needs the package grpcio-reflection; install it or switch it off"
        ) from error
    names = (_RETAIL, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _bind(server: grpc.Server, address: str, tls: TlsFiles) -> int:
    credentials = grpc.ssl_server_credentials(
        [(tls.key, tls.chain)],
        root_certificates=tls.client_authority,
        require_client_auth=True,
    )
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise InvalidInputError(
            f"{address} cannot be served; free the port, or mend the certificate's files"
        ) from error
    if not port:
        raise InvalidInputError(f"{address} cannot be served; mend the certificate's files")
    return port
