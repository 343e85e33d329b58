"""Assembles the server out of its parts and runs it until it is told to stop."""

import asyncio
import contextlib
import datetime as dt
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from sqlalchemy import Engine

from hansa.core.errors import InvalidInputError
from hansa.core.storage import BlobStore
from hansa.protos.v1 import enrolment_pb2_grpc, operator_pb2_grpc, releases_pb2_grpc
from hansa.server.authority import Authority
from hansa.server.evidence import EvidenceDesk, ReleaseEvidence
from hansa.server.ledger_desk import LedgerDesk
from hansa.server.plane import federation
from hansa.server.plane.enrolment import EnrolmentService
from hansa.server.plane.operator import Office, OperatorService
from hansa.server.plane.peer import Gate
from hansa.server.plane.releases import ReleasesService
from hansa.server.releases.files import RepositoryFiles
from hansa.server.rounds.grid import Plane
from hansa.server.rounds.worker import Releasing, RunWorker
from hansa.server.settings import ServerSettings, StateFolder
from hansa.server.state.database import open_database
from hansa.server.state.journal import Journal, LedgerCopies
from hansa.server.state.members import Members
from hansa.server.state.runs import Runs
from hansa.server.state.tasks import Tasks
from hansa.server.switchboard import Switchboard
from hansa.server.uploads import Uploads

_log = logging.getLogger(__name__)

_MAX_MESSAGE_BYTES = 4 << 20
_GRACE_S = 3.0
_TIMESTAMP_PERIOD_S = 600.0

_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
)


def utc_now() -> dt.datetime:
    """The present moment, aware of its zone."""
    return dt.datetime.now(dt.UTC)


class Releases(Releasing, ReleaseEvidence, Protocol):
    """Models and releases as the server sees them."""

    @property
    def files(self) -> RepositoryFiles:
        """What merchants may read."""
        ...

    def root(self) -> bytes:
        """The TUF root that a merchant pins when it joins."""
        ...

    def refresh(self, now: dt.datetime) -> None:
        """Renews the short-lived timestamp."""
        ...


OpenReleases = Callable[[StateFolder, ServerSettings, BlobStore], Releases]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything of a running server, each part made once."""

    engine: Engine
    settings: ServerSettings
    authority: Authority
    members: Members
    tasks: Tasks
    runs: Runs
    journal: Journal
    ledgers: LedgerDesk
    blobs: BlobStore
    uploads: Uploads
    switchboard: Switchboard
    releaser: Releases
    evidence: EvidenceDesk
    gate: Gate


def open_releases(state: StateFolder, settings: ServerSettings, blobs: BlobStore) -> Releases:
    """The real ones; imported here, so that only a running server loads torch and ONNX."""
    from hansa.server.models import ModelRoom
    from hansa.server.releasing import Releaser

    return Releaser.open(state, ModelRoom(settings, state.cache), blobs)


def assemble(state: StateFolder, open_releaser: OpenReleases = open_releases) -> Parts:
    """Opens the operator's state."""
    settings = state.settings()
    engine = open_database(state.database)
    members, runs = Members(engine, time.time), Runs(engine, time.time)
    copies, tasks = LedgerCopies(engine), Tasks(engine)
    blobs = BlobStore(state.blobs)
    releaser = open_releaser(state, settings, blobs)
    authority = Authority(state.authority, tuf_root=releaser.root(), now=utc_now)
    return Parts(
        engine=engine,
        settings=settings,
        authority=authority,
        members=members,
        tasks=tasks,
        runs=runs,
        journal=Journal(engine, time.time),
        ledgers=LedgerDesk(members, copies),
        blobs=blobs,
        uploads=Uploads(state.uploads, blobs),
        switchboard=Switchboard(),
        releaser=releaser,
        evidence=EvidenceDesk(
            runs=runs,
            members=members,
            tasks=tasks,
            copies=copies,
            releases=releaser,
            plan_key=authority.plan_key,
        ),
        gate=Gate(members, utc_now),
    )


def _services(server: grpc.aio.Server, parts: Parts) -> None:
    desk = federation.Desk(
        gate=parts.gate,
        members=parts.members,
        tasks=parts.tasks,
        runs=parts.runs,
        blobs=parts.blobs,
        uploads=parts.uploads,
        ledgers=parts.ledgers,
        switchboard=parts.switchboard,
    )
    office = Office(
        gate=parts.gate,
        settings=parts.settings,
        authority=parts.authority,
        members=parts.members,
        runs=parts.runs,
        tasks=parts.tasks,
        journal=parts.journal,
        evidence=parts.evidence,
        switchboard=parts.switchboard,
    )
    federation.bind(server, desk)
    enrolment = EnrolmentService(parts.gate, parts.members, parts.authority, parts.journal)
    enrolment_pb2_grpc.add_EnrolmentServicer_to_server(enrolment, server)
    operator_pb2_grpc.add_OperatorServicer_to_server(OperatorService(office), server)
    releases = ReleasesService(parts.releaser.files, parts.members, parts.gate.merchant)
    releases_pb2_grpc.add_ReleasesServicer_to_server(releases, server)


def _credentials(authority: Authority) -> grpc.ServerCredentials:
    pair = (authority.server.key_pem, authority.server.certificate_pem)
    return grpc.ssl_server_credentials([pair], authority.authority_pem, require_client_auth=True)


async def _bind(server: grpc.aio.Server, parts: Parts) -> None:
    where = f"{parts.settings.listen}:{parts.settings.port}"
    try:
        server.add_secure_port(where, _credentials(parts.authority))
    except RuntimeError as error:
        raise InvalidInputError(
            f"cannot listen on {where}; is another server running there?"
        ) from error
    checker = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    await checker.set("", health_pb2.HealthCheckResponse.SERVING)
    if parts.settings.reflection:
        _reflect(server)


def _reflect(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection

    names = ["hansa.v1.Federation", "hansa.v1.Enrolment", "hansa.v1.Releases", "hansa.v1.Operator"]
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)


async def _refresh_releases(releaser: Releases) -> None:
    """The timestamp is short-lived on purpose; the server renews it while it lives."""
    while True:
        try:
            await asyncio.to_thread(releaser.refresh, utc_now())
        except Exception:  # noqa: BLE001 - the seam of the task: a full disk must not end it
            _log.exception("the timestamp of the releases was not renewed; trying again later")
        await asyncio.sleep(_TIMESTAMP_PERIOD_S)


async def serve(state: StateFolder) -> None:
    """Runs the server until SIGTERM or SIGINT; unfinished runs go on at the next start.

    Raises:
        InvalidInputError: the state is damaged or the port is taken.
    """
    parts = assemble(state)
    async with running(parts):
        _log.info("listening on %s:%s", parts.settings.listen, parts.settings.port)
        await _until_told_to_stop()


@contextlib.asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[None]:
    """The server at work; at the end its streams are closed and the run in hand stays unfinished.

    Raises:
        InvalidInputError: the port is taken.
    """
    parts.switchboard.attach(asyncio.get_running_loop())
    server = grpc.aio.server(options=_OPTIONS)
    _services(server, parts)
    await _bind(server, parts)
    await server.start()
    worker = _worker(parts)
    worker.start()
    refresh = asyncio.create_task(_refresh_releases(parts.releaser))
    try:
        yield
    finally:
        refresh.cancel()
        await asyncio.to_thread(worker.stop)
        parts.switchboard.close()
        await server.stop(_GRACE_S)
        parts.engine.dispose()


def _worker(parts: Parts) -> RunWorker:
    plane = Plane(
        members=parts.members, tasks=parts.tasks, blobs=parts.blobs, switchboard=parts.switchboard
    )
    return RunWorker(
        plane=plane,
        runs=parts.runs,
        journal=parts.journal,
        releaser=parts.releaser,
        ledgers=parts.evidence.ledger,
    )


async def _until_told_to_stop() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
