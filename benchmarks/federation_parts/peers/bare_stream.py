"""The peer of the wire: a bare gRPC stream that gives the guarantee of a round, and nothing else.

One ``grpc.aio`` server and one process for each client, mutual TLS, pieces of 1 MiB in the same
protobuf message. A round sends the file down to every client and takes one back from each; whoever
sends hashes, whoever receives writes to the disk, waits for it (fsync), hashes and compares. There
are no tasks, no resumption, no database, no ledger, no aggregation.
"""

import asyncio
import contextlib
import datetime as dt
import hashlib
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import grpc
import grpc.aio
import numpy as np

from benchmarks.federation_parts.measure import cpu_seconds
from hansa.core.identity import Credentials, Identity, Role, issue, make_authority, make_key
from hansa.core.storage import CHUNK_BYTES
from hansa.protos.v1 import common_pb2 as common

_DOWN, _UP = "/bench.Bare/Down", "/bench.Bare/Up"
_HOST = "bare.test"
_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Tls:
    """PEM files of one end."""

    authority: bytes
    key: bytes
    certificate: bytes


def make_tls() -> tuple[Tls, Tls]:
    """A server's and a client's, of one authority."""
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    authority = make_authority("bare stream", now=now, valid_for=day)

    def certified(role: Role, *hosts: str) -> Tls:
        key = make_key()
        name = Identity(role=role, name="bare")
        certificate = issue(authority, key.public_key(), name, now=now, valid_for=day, hosts=hosts)
        own = Credentials(key=key, certificate=certificate)
        return Tls(
            authority=authority.certificate_pem, key=own.key_pem, certificate=own.certificate_pem
        )

    return certified(Role.SERVER, _HOST), certified(Role.MERCHANT)


def _pieces(path: Path, hasher: Any) -> Iterator[bytes]:
    """A file's pieces, hashed on the way; the digest comes last, as a piece of its own."""
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            hasher.update(piece)
            yield piece
    yield hasher.digest()


class _Receiver:
    """Takes pieces in: written, hashed, and at the end on the disk and compared."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = hashlib.sha256()
        self._held = b""

    def take(self, piece: bytes) -> None:
        """The last piece is the digest, so each is held back until the next one comes."""
        if self._held:
            self._hasher.update(self._held)
            self._file.write(self._held)
        self._held = piece

    def finish(self) -> None:
        """Raises ValueError when the bytes are not what the sender hashed."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._hasher.digest() != self._held:
            raise ValueError("the bytes are not those that were sent")


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = iter(range(1 << 30))

    def service(self, handler_call_details: Any) -> Any:
        read, write = common.Chunk.FromString, common.Chunk.SerializeToString
        if handler_call_details.method == _DOWN:
            return grpc.unary_stream_rpc_method_handler(self._down, read, write)
        return grpc.stream_unary_rpc_method_handler(self._up, read, write)

    async def _down(self, _request: common.Chunk, _context: Any) -> AsyncIterator[common.Chunk]:
        pieces = _pieces(self._folder / "model", hashlib.sha256())
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield common.Chunk(data=piece)

    async def _up(self, request: AsyncIterator[common.Chunk], _context: Any) -> common.Chunk:
        path = self._folder / f"update-{next(self._numbers)}"
        with path.open("wb") as file:
            receiver = _Receiver(file)
            async for chunk in request:
                await asyncio.to_thread(receiver.take, chunk.data)
            await asyncio.to_thread(receiver.finish)
        await asyncio.to_thread(path.unlink)
        return common.Chunk()


async def _serve(folder: Path, tls: Tls, pipe: Connection) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handler(folder),))
    credentials = grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)], tls.authority, require_client_auth=True
    )
    pipe.send(server.add_secure_port("127.0.0.1:0", credentials))
    await server.start()
    await asyncio.to_thread(_until_closed, pipe)
    await server.stop(0.0)


def _until_closed(pipe: Connection) -> None:
    with contextlib.suppress(EOFError):
        pipe.recv()


def _server(folder: Path, tls: Tls, pipe: Connection) -> None:
    """The server's process."""
    asyncio.run(_serve(folder, tls, pipe))


def _client(folder: Path, tls: Tls, port: int, pipe: Connection) -> None:
    """A client's process: a round for each word it gets."""
    credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
    options = [("grpc.ssl_target_name_override", _HOST), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        form = (common.Chunk.SerializeToString, common.Chunk.FromString)
        down, up = channel.unary_stream(_DOWN, *form), channel.stream_unary(_UP, *form)
        grpc.channel_ready_future(channel).result(_TIMEOUT_S)
        pipe.send("ready")
        while pipe.recv() == "round":
            _one_round(folder, down, up)
            pipe.send("done")


def _one_round(folder: Path, down: Any, up: Any) -> None:
    model = folder / "model"
    with model.open("wb") as file:
        receiver = _Receiver(file)
        for chunk in down(common.Chunk(), timeout=_TIMEOUT_S):
            receiver.take(chunk.data)
        receiver.finish()
    up(_chunks(_pieces(model, hashlib.sha256())), timeout=_TIMEOUT_S)


def _chunks(pieces: Iterable[bytes]) -> Iterator[common.Chunk]:
    return (common.Chunk(data=piece) for piece in pieces)


class BareStream:
    """Server and clients at work in processes of their own.

    with BareStream(folder, size_bytes=90_000_000, nodes=2) as peer:
        wall_s, server_cpu_s = peer.round()
    """

    def __init__(self, folder: Path, *, size_bytes: int, nodes: int) -> None:
        """A file of random bytes in ``folder`` goes to ``nodes`` clients and comes back."""
        self._folder = folder
        self._nodes = nodes
        self._tls = make_tls()
        self._context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        (folder / "server").mkdir(parents=True)
        data = np.random.default_rng(1).bytes(size_bytes)
        (folder / "server" / "model").write_bytes(data)

    def __enter__(self) -> Self:
        """Connected."""
        self._server_pipe = self._start(_server, self._folder / "server", self._tls[0])
        self.port = int(self._server_pipe.recv())
        self.connect([self.port] * self._nodes)
        return self

    def connect(self, ports: list[int]) -> None:
        """A client through each port; clients of before are sent away."""
        self._dismiss()
        for number, port in enumerate(ports):
            folder = self._folder / f"client-{number}"
            folder.mkdir(exist_ok=True)
            self._pipes.append(self._start(_client, folder, self._tls[1], port))
        for pipe in self._pipes:
            pipe.recv()

    def _start(self, target: Any, *arguments: Any) -> Connection:
        here, there = self._context.Pipe()
        process = self._context.Process(target=target, args=(*arguments, there), daemon=True)
        process.start()
        there.close()
        self._processes.append(process)
        return here

    def round(self) -> tuple[float, float]:
        """One round: its wall, and the server's CPU, in seconds."""
        used, began = cpu_seconds(self._processes[0].pid), time.monotonic()
        for pipe in self._pipes:
            pipe.send("round")
        for pipe in self._pipes:
            pipe.recv()
        return time.monotonic() - began, cpu_seconds(self._processes[0].pid) - used

    def _dismiss(self) -> None:
        for pipe in self._pipes:
            pipe.send("end")
        for process in self._processes[1:]:
            process.join(_TIMEOUT_S)
        self._pipes, self._processes = [], self._processes[:1]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends every process."""
        for process in self._processes:
            process.kill()
            process.join(_TIMEOUT_S)
