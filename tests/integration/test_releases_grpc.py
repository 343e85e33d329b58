"""The Releases service over real gRPC: a server in a thread of its own, the updater its client."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import pytest

from hansa.client.updates.release_source import GrpcReleaseSource, ReleaseSource
from hansa.client.updates.updater import Updater
from hansa.core.errors import (
    InvalidInputError,
    NotFoundError,
    TransportError,
    UnauthorisedError,
    UntrustedReleaseError,
)
from hansa.core.ids import MerchantId, ReleaseVersion, Sha256
from hansa.core.storage import CHUNK_BYTES
from hansa.protos.v1 import releases_pb2, releases_pb2_grpc
from hansa.server.plane.releases import Context, ReleasesService
from hansa.server.releases.files import RepositoryFiles
from tests.fakes.release_source import FakeReleaseSource
from tests.fakes.release_world import CHANNEL, ReleaseWorld, pseudo_random

pytestmark = pytest.mark.integration
MODEL = {"model.onnx": pseudo_random(2_500_000)}
TIMEOUT_S = 10


@dataclass
class Reports:
    """The health sink's fake."""

    received: list[tuple[str, str, int, bool, str]] = field(default_factory=list)

    def record_health(
        self,
        *,
        merchant: MerchantId,
        channel: str,
        version: ReleaseVersion,
        serving: bool,
        sentence: str,
    ) -> None:
        self.received.append((merchant, channel, version, serving, sentence))


class RunningService:
    """A grpc.aio server in a thread; it counts what it sends and can be told to fail."""

    def __init__(self, files: RepositoryFiles) -> None:
        self.reports = Reports()
        self.allowed_checks: int | None = None
        self.sent_bytes = 0
        self._ready = threading.Event()
        self._files = self._counting(files)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])
        self._thread.start()
        assert self._ready.wait(TIMEOUT_S)

    def authorise(self, context: Context) -> MerchantId:
        """Answers as long as there are checks left; then the certificate is revoked."""
        if self.allowed_checks is not None:
            self.allowed_checks -= 1
            if self.allowed_checks < 0:
                raise UnauthorisedError("this certificate was revoked")
        return MerchantId("lighthouse")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(TIMEOUT_S)
        self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        server = grpc.aio.server()
        service = ReleasesService(self._files, self.reports, self.authorise)
        releases_pb2_grpc.add_ReleasesServicer_to_server(service, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._ready.set()
        await self._stopping.wait()
        await server.stop(None)

    def _counting(self, files: RepositoryFiles) -> RepositoryFiles:
        plain = files.targets.chunks

        def chunks(sha: Sha256, offset: int) -> Iterator[bytes]:
            for chunk in plain(sha, offset):
                self.sent_bytes += len(chunk)
                yield chunk

        files.targets.chunks = chunks  # type: ignore[method-assign]
        return files


@pytest.fixture
def world(tmp_path: Path) -> ReleaseWorld:
    world = ReleaseWorld(tmp_path)
    world.release(1, MODEL)
    return world


@pytest.fixture
def service(world: ReleaseWorld) -> Iterator[RunningService]:
    service = RunningService(RepositoryFiles(world.repository_folder))
    yield service
    service.stop()


@pytest.fixture
def channel(service: RunningService) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.address) as channel:
        yield channel


@pytest.fixture
def remote(channel: grpc.Channel, service: RunningService) -> GrpcReleaseSource:
    return GrpcReleaseSource(
        channel, service.address, call_timeout_s=TIMEOUT_S, stream_timeout_s=TIMEOUT_S
    )


def model_sha(world: ReleaseWorld) -> Sha256:
    manifest = world.repository.newest(CHANNEL)
    assert manifest is not None
    return Sha256(manifest.files["model.onnx"].sha256)


@pytest.fixture(params=["fake", "grpc"])
def source(
    request: pytest.FixtureRequest, world: ReleaseWorld, remote: GrpcReleaseSource
) -> ReleaseSource:
    return remote if request.param == "grpc" else FakeReleaseSource(world.files)


class TestEverySource:
    """The contract that the fake and the real source keep alike."""

    def test_metadata_comes_as_signed(self, world: ReleaseWorld, source: ReleaseSource) -> None:
        assert source.metadata("1.root.json") == world.root

    def test_missing_metadata_is_not_found(self, source: ReleaseSource) -> None:
        with pytest.raises(NotFoundError):
            source.metadata("2.root.json")

    def test_a_target_comes_from_its_offset_on(
        self, world: ReleaseWorld, source: ReleaseSource
    ) -> None:
        pieces = list(source.target("stable/1/model.onnx", model_sha(world), 1_234_567))
        assert b"".join(pieces) == MODEL["model.onnx"][1_234_567:]
        assert max(len(piece) for piece in pieces) <= CHUNK_BYTES

    def test_a_target_from_its_very_end_is_empty(
        self, world: ReleaseWorld, source: ReleaseSource
    ) -> None:
        assert list(source.target("stable/1/model.onnx", model_sha(world), 2_500_000)) == []

    def test_a_missing_target_is_not_found(self, source: ReleaseSource) -> None:
        with pytest.raises(NotFoundError):
            list(source.target("stable/1/model.onnx", Sha256("0" * 64), 0))

    def test_an_offset_beyond_the_end_is_refused(
        self, world: ReleaseWorld, source: ReleaseSource
    ) -> None:
        with pytest.raises((TransportError, InvalidInputError)):
            list(source.target("stable/1/model.onnx", model_sha(world), 2_500_001))


def test_a_release_is_installed_over_grpc(world: ReleaseWorld, remote: GrpcReleaseSource) -> None:
    folder = Updater(world.folder / "site", remote, world.root).refresh_and_fetch(CHANNEL)
    assert folder is not None
    assert (folder / "model.onnx").read_bytes() == MODEL["model.onnx"]


def test_a_process_killed_half_way_resumes_and_the_server_sends_only_the_missing_bytes(
    world: ReleaseWorld, service: RunningService, remote: GrpcReleaseSource
) -> None:
    site, root = world.folder / "site", world.folder / "pinned-root.json"
    root.write_bytes(world.root)
    arguments = [sys.executable, "-c", KILLED_UPDATE, service.address, str(site), str(root)]
    killed = subprocess.run(arguments, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL

    updater = Updater(site, remote, world.root)
    assert updater.current() is None
    service.sent_bytes = 0
    updater.refresh_and_fetch(CHANNEL)
    assert service.sent_bytes == 2_500_000 - 2 * CHUNK_BYTES
    assert updater.current() is not None


KILLED_UPDATE = """
import os, signal, sys
from pathlib import Path
import grpc
from hansa.client.updates.release_source import GrpcReleaseSource
from hansa.client.updates.updater import Updater

class Killed(GrpcReleaseSource):
    def target(self, path, sha256, offset_bytes):
        for number, piece in enumerate(super().target(path, sha256, offset_bytes)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield piece

address, site, root = sys.argv[1:]
source = Killed(grpc.insecure_channel(address), address)
Updater(Path(site), source, Path(root).read_bytes()).refresh_and_fetch("stable")
"""


def test_a_certificate_revoked_during_a_download_ends_the_stream(
    world: ReleaseWorld, service: RunningService, remote: GrpcReleaseSource
) -> None:
    service.allowed_checks = 3
    received: list[bytes] = []
    with pytest.raises(UnauthorisedError, match="revoked"):
        received.extend(remote.target("stable/1/model.onnx", model_sha(world), 0))
    assert [len(piece) for piece in received] == [CHUNK_BYTES, CHUNK_BYTES]


def test_a_foreign_peer_gets_nothing(
    world: ReleaseWorld, service: RunningService, remote: GrpcReleaseSource
) -> None:
    service.allowed_checks = 0
    for call in all_calls(remote, model_sha(world)):
        with pytest.raises(UnauthorisedError):
            call()
    assert service.reports.received == []
    updater = Updater(world.folder / "site", remote, world.root)
    with pytest.raises(UnauthorisedError):
        updater.refresh_and_fetch(CHANNEL)


def all_calls(remote: GrpcReleaseSource, sha: Sha256) -> list[Callable[[], object]]:
    report = {"channel": CHANNEL, "version": ReleaseVersion(1), "serving": True, "sentence": ""}
    return [
        lambda: remote.metadata("timestamp.json"),
        lambda: list(remote.target("stable/1/model.onnx", sha, 0)),
        lambda: remote.report_health(**report),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(
    "name",
    ["../../keys/timestamp.pem", "/etc/passwd", "..%2f1.root.json", "a\0.json", "writer.lock"],
)
def test_a_metadata_name_that_leaves_its_folder_is_refused(
    channel: grpc.Channel, name: str
) -> None:
    stub = releases_pb2_grpc.ReleasesStub(channel)  # type: ignore[no-untyped-call]
    with pytest.raises(grpc.RpcError) as refusal:
        stub.GetMetadata(releases_pb2.MetadataRequest(name=name), timeout=TIMEOUT_S)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("path", "sha"),
    [
        ("../keys/timestamp.pem", "0" * 64),
        ("stable/../../keys", "0" * 64),
        ("stable/1/../x", "0" * 64),
        ("/stable/1/model.onnx", "0" * 64),
        ("stable/1/model.onnx", "../../keys/timestamp.pem"),
        ("stable/1/model.onnx", ""),
        ("stable/1/model.onnx", "A" * 64),
    ],
)
def test_a_target_name_that_leaves_its_folder_is_refused(
    channel: grpc.Channel, path: str, sha: str
) -> None:
    stub = releases_pb2_grpc.ReleasesStub(channel)  # type: ignore[no-untyped-call]
    request = releases_pb2.TargetRequest(path=path, sha256=sha)
    with pytest.raises(grpc.RpcError) as refusal:
        list(stub.GetTarget(request, timeout=TIMEOUT_S))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_health_reaches_the_sink_under_the_certificate_s_name(
    service: RunningService, remote: GrpcReleaseSource
) -> None:
    remote.report_health(
        channel=CHANNEL, version=ReleaseVersion(1), serving=False, sentence="the disk is full"
    )
    assert service.reports.received == [("lighthouse", "stable", 1, False, "the disk is full")]


@pytest.mark.parametrize(
    "change",
    [{"channel": "../x"}, {"sentence": "x" * 501}, {"sentence": "two\nlines"}, {"version": 0}],
)
def test_a_health_report_out_of_bounds_is_refused(
    service: RunningService, remote: GrpcReleaseSource, change: dict[str, object]
) -> None:
    report = {"channel": CHANNEL, "version": 1, "serving": True, "sentence": "ok", **change}
    with pytest.raises(InvalidInputError):
        remote.report_health(**report)  # type: ignore[arg-type]
    assert service.reports.received == []


def test_a_server_that_is_away_is_a_transport_error_and_serving_goes_on(
    world: ReleaseWorld, service: RunningService, remote: GrpcReleaseSource
) -> None:
    updater = Updater(world.folder / "site", remote, world.root)
    folder = updater.refresh_and_fetch(CHANNEL)
    with grpc.insecure_channel("127.0.0.1:1") as nowhere:
        lost = Updater(world.folder / "site", GrpcReleaseSource(nowhere, "127.0.0.1:1"), world.root)
        with pytest.raises(TransportError, match="cannot be reached"):
            lost.refresh_and_fetch(CHANNEL)
        assert lost.current() == folder


def test_an_expired_timestamp_is_refused_over_grpc_in_a_clear_sentence(
    world: ReleaseWorld, remote: GrpcReleaseSource
) -> None:
    world.expire_timestamp()
    updater = Updater(world.folder / "site", remote, world.root)
    with pytest.raises(UntrustedReleaseError, match="ask the operator to refresh"):
        updater.refresh_and_fetch(CHANNEL)
