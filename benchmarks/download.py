#!/usr/bin/env python3
"""What does a resumable, verified release download cost over a bare gRPC stream of the same bytes?

Both run in one process against one server process (grpc.aio, loopback, no TLS), in turns, after
one warm-up each; medians are compared.

* ``bare_s``: one unary-stream call returns the file in 1 MiB chunks; the client adds up lengths.
* ``release_s``: ``Updater.refresh_and_fetch`` of a fresh site: TUF metadata, manifest, the stream
  written to disk and fsynced, verified, installed.
* ``resumed_s``: the same, where a first process had stopped after half of the file.
* ``disk_s``: writing, fsyncing and hashing the same bytes, which any download that lasts must do.

Command:
    PYTHONPATH=core:client:server:protos:. .venv/bin/python benchmarks/download.py

Expected on 2 CPU cores and a local disk, 90 MB: ``ratio`` (release_s / bare_s) 1.4 to 3.5, of which
the disk is the greater part: ``ratio_with_disk`` (release_s / (bare_s + disk_s)) 0.5 to 1.2;
``resumed_share`` (resumed_s / release_s) 0.5 to 0.9, since the whole file is hashed again.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import grpc.aio

from hansa.client.updates.release_source import GrpcReleaseSource
from hansa.client.updates.updater import UpdateLimits, Updater
from hansa.core.errors import TransportError
from hansa.core.ids import MerchantId, Sha256
from hansa.core.storage import CHUNK_BYTES, file_sha256, write_atomically
from hansa.protos.v1 import common_pb2, releases_pb2_grpc
from hansa.server.plane.releases import ReleasesService
from hansa.server.releases.files import RepositoryFiles
from tests.fakes.release_world import CHANNEL, ReleaseWorld, pseudo_random

_BARE = "/bench.Bare/Stream"


class _NoHealth:
    def record_health(self, **_: object) -> None:
        """Forgets the report."""


class _BareHandler(grpc.GenericRpcHandler):
    def __init__(self, data: bytes) -> None:
        self._chunks = [
            common_pb2.Chunk(data=data[start : start + CHUNK_BYTES]).SerializeToString()
            for start in range(0, len(data), CHUNK_BYTES)
        ]

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != _BARE:
            return None
        return grpc.unary_stream_rpc_method_handler(self._stream)

    async def _stream(self, _request: bytes, _context: object) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


async def _serve(repository: Path, data: bytes, parent: Connection) -> None:
    server = grpc.aio.server()
    service = ReleasesService(
        RepositoryFiles(repository), _NoHealth(), lambda _: MerchantId("bench")
    )
    releases_pb2_grpc.add_ReleasesServicer_to_server(service, server)
    server.add_generic_rpc_handlers((_BareHandler(data),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    parent.send(f"127.0.0.1:{port}")
    await server.wait_for_termination()


def _server_process(repository: Path, size: int, parent: Connection) -> None:
    asyncio.run(_serve(repository, pseudo_random(size), parent))


class _HalfSource(GrpcReleaseSource):
    """Breaks every stream after half of the file."""

    half_bytes = 0

    def target(self, path: str, sha256: Sha256, offset_bytes: int) -> Iterator[bytes]:
        count = 0
        for piece in super().target(path, sha256, offset_bytes):
            yield piece
            count += len(piece)
            if count >= self.half_bytes:
                raise TransportError("half of it is here")


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class _Bench:
    def __init__(self, channel: grpc.Channel, world: ReleaseWorld, size: int) -> None:
        self._channel = channel
        self._world = world
        self._size = size
        self._sites = 0

    def _site(self) -> Path:
        self._sites += 1
        return self._world.folder / f"site-{self._sites}"

    def bare(self) -> float:
        call = self._channel.unary_stream(_BARE)

        def drain() -> None:
            raw = call(b"", timeout=300)
            total = sum(len(common_pb2.Chunk.FromString(message).data) for message in raw)
            if total != self._size:
                raise TransportError(f"{total} bytes came")

        return _timed(drain)

    def release(self) -> float:
        updater = Updater(
            self._site(), GrpcReleaseSource(self._channel, "loopback"), self._world.root
        )
        return _timed(lambda: updater.refresh_and_fetch(CHANNEL))

    def resumed(self) -> float:
        site, half = self._site(), _HalfSource(self._channel, "loopback")
        half.half_bytes = self._size // 2
        try:
            once = UpdateLimits(max_streams=1)
            Updater(site, half, self._world.root, once).refresh_and_fetch(CHANNEL)
        except TransportError:
            pass
        updater = Updater(site, GrpcReleaseSource(self._channel, "loopback"), self._world.root)
        return _timed(lambda: updater.refresh_and_fetch(CHANNEL))

    def disk(self, data: bytes) -> float:
        path = self._site()

        def write() -> None:
            write_atomically(path, data)
            file_sha256(path)

        return _timed(write)


def _measure(folder: Path, size: int, repeats: int) -> dict[str, float | int]:
    world = ReleaseWorld(folder)
    data = pseudo_random(size)
    world.release(1, {"model.onnx": data})
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (world.repository_folder, size, theirs)
    server = context.Process(target=_server_process, args=arguments, daemon=True)
    server.start()
    try:
        with grpc.insecure_channel(ours.recv()) as channel:
            return _compare(_Bench(channel, world, size), data, repeats)
    finally:
        server.kill()
        server.join()


def _compare(bench: _Bench, data: bytes, repeats: int) -> dict[str, float | int]:
    runs = {
        "bare_s": bench.bare,
        "release_s": bench.release,
        "resumed_s": bench.resumed,
        "disk_s": lambda: bench.disk(data),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            seconds = run()
            if repeat:
                times[name].append(seconds)
    medians = {name: round(statistics.median(values), 4) for name, values in times.items()}
    return {
        "size_bytes": len(data),
        "repeats": repeats,
        **medians,
        "ratio": round(medians["release_s"] / medians["bare_s"], 2),
        "ratio_with_disk": round(medians["release_s"] / (medians["bare_s"] + medians["disk_s"]), 2),
        "resumed_share": round(medians["resumed_s"] / medians["release_s"], 2),
    }


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description="Release download against a bare gRPC stream.")
    parser.add_argument("--size-bytes", type=int, default=90_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = _measure(Path(folder), options.size_bytes, options.repeats)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
