"""Assembles the server out of its parts and runs it until it is told to stop."""

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from sqlalchemy import Engine

from hansa.core.errors import InvalidInputError
from hansa.core.secure.roster import Trust
from hansa.core.storage import BlobStore
from hansa.core.transparency.checkpoint import origin_of
from hansa.protos.v1 import (
    enrolment_pb2_grpc,
    log_pb2_grpc,
    operator_pb2_grpc,
    releases_pb2_grpc,
)
from hansa.server.authority import Authority
from hansa.server.blobs import open_blobs
from hansa.server.evidence import EvidenceDesk, LogReader, ReleaseEvidence
from hansa.server.launch import Launcher
from hansa.server.ledger_desk import LedgerDesk
from hansa.server.memory import share_arenas
from hansa.server.own_certificates import ShownCertificate
from hansa.server.plane import federation
from hansa.server.plane.auditing import AuditDesk
from hansa.server.plane.enrolment import EnrolmentService
from hansa.server.plane.leaving import LeaveDesk
from hansa.server.plane.log import LogDesk, LogService
from hansa.server.plane.operator import Office, OperatorService
from hansa.server.plane.peer import Gate
from hansa.server.plane.reflection import reflect
from hansa.server.plane.releases import ReleasesService
from hansa.server.plane.standing import OpenStreams
from hansa.server.releases.files import RepositoryFiles
from hansa.server.rounds.grid import Plane
from hansa.server.rounds.worker import Releasing, RunWorker
from hansa.server.scheduler import Scheduler, StandingOrders
from hansa.server.settings import ServerSettings, StateFolder
from hansa.server.signals import until_told_to_stop
from hansa.server.state.auditors import Auditors
from hansa.server.state.database import (
    is_shared,
    open_database,
    server_name,
    sole_server,
)
from hansa.server.state.journal import Journal, LedgerCopies
from hansa.server.state.members import Members
from hansa.server.state.runs import Runs
from hansa.server.state.schedules import Schedules
from hansa.server.state.tasks import Tasks
from hansa.server.state.uploads import Deliveries
from hansa.server.switchboard import Switchboard
from hansa.server.terms import OfferedTerms
from hansa.server.transparency.own_code import own_code
from hansa.server.transparency.scribe import Scribe
from hansa.server.transparency.store import LogStore
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
    # Else each connection's receive buffer grows to megabytes, for however many merchants there
    # are; what a pending read wants is let in without it.
    ("grpc.http2.bdp_probe", 0),
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

    name: str
    """Of this server process, among all at one database."""
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
    auditors: Auditors
    scribe: Scribe
    terms: Callable[[], bytes]
    """The operator's signed offer of terms as it is now."""
    schedules: Schedules
    allowed_apps: Callable[[], tuple[str, ...]]
    """The operator's list as it is now: it may grow while the server runs."""


def open_releases(state: StateFolder, settings: ServerSettings, blobs: BlobStore) -> Releases:
    """The real ones; imported here, so that only a running server loads torch and ONNX."""
    from hansa.server.models import ModelRoom
    from hansa.server.releasing import Releaser

    return Releaser.open(state, ModelRoom(settings, state.cache), blobs)


def assemble(
    state: StateFolder, open_releaser: OpenReleases = open_releases, *, port: int | None = None
) -> Parts:
    """Opens the operator's state, for a server that listens on the settings' port or another."""
    settings = state.settings()
    if port is not None:
        settings = settings.model_copy(update={"listen_port": port})
    engine = open_database(settings.database_url or state.database)
    members, runs = Members(engine, time.time), Runs(engine, time.time)
    copies, tasks = LedgerCopies(engine), Tasks(engine)
    blobs = open_blobs(state, settings)
    releaser = open_releaser(state, settings, blobs)
    authority = Authority(state.authority, settings=settings, tuf_root=releaser.root(), now=utc_now)
    uploads = Uploads(state.uploads, blobs, Deliveries(engine), tasks)
    switchboard = _switchboard(engine)
    scribe = Scribe(
        engine,
        key=authority.plan_key,
        origin=origin_of(settings.federation),
        releases=releaser,
        switchboard=switchboard,
        now=utc_now,
        code=own_code(),
    )
    return Parts(
        name=server_name(engine),
        engine=engine,
        settings=settings,
        authority=authority,
        members=members,
        tasks=tasks,
        runs=runs,
        journal=Journal(engine, time.time),
        ledgers=LedgerDesk(members, copies, uploads.received),
        blobs=blobs,
        uploads=uploads,
        switchboard=switchboard,
        releaser=releaser,
        evidence=EvidenceDesk(
            runs=runs,
            members=members,
            tasks=tasks,
            copies=copies,
            releases=releaser,
            plan_key=authority.plan_key,
            log=LogReader(store=LogStore(engine), scribe=scribe),
        ),
        auditors=Auditors(engine, time.time),
        scribe=scribe,
        terms=OfferedTerms(state.terms).signed,
        gate=Gate(members, utc_now),
        schedules=Schedules(engine, time.time),
        allowed_apps=lambda: state.settings().allowed_apps,
    )


def _switchboard(engine: Engine) -> Switchboard:
    if not is_shared(engine):
        return Switchboard()
    from hansa.server.state.notices import Notices  # its driver is installed only with PostgreSQL

    return Switchboard(Notices(engine))


def _services(server: grpc.aio.Server, parts: Parts, streams: OpenStreams) -> None:
    desk = federation.Desk(
        gate=parts.gate,
        members=parts.members,
        tasks=parts.tasks,
        runs=parts.runs,
        blobs=parts.blobs,
        uploads=parts.uploads,
        ledgers=parts.ledgers,
        switchboard=parts.switchboard,
        checkpoint=lambda: parts.scribe.newest,
        terms=parts.terms,
    )
    leaving = LeaveDesk(parts.engine, parts.evidence, parts.journal, parts.switchboard)
    office = Office(
        gate=parts.gate,
        streams=streams,
        settings=parts.settings,
        authority=parts.authority,
        members=parts.members,
        runs=parts.runs,
        tasks=parts.tasks,
        journal=parts.journal,
        evidence=parts.evidence,
        switchboard=parts.switchboard,
        launcher=_launcher(parts),
        schedules=parts.schedules,
        blobs=parts.blobs,
        auditing=AuditDesk(
            authority=parts.authority, auditors=parts.auditors, address=parts.settings.address
        ),
        leaving=leaving,
    )
    federation.bind(server, desk)
    books = (parts.authority, parts.journal)
    enrolment = EnrolmentService(parts.gate, parts.members, *books, leaving)
    enrolment_pb2_grpc.add_EnrolmentServicer_to_server(enrolment, server)
    operator_pb2_grpc.add_OperatorServicer_to_server(OperatorService(office), server)
    releases = ReleasesService(parts.releaser.files, parts.members, parts.gate.merchant)
    releases_pb2_grpc.add_ReleasesServicer_to_server(releases, server)
    log_pb2_grpc.add_TransparencyLogServicer_to_server(LogService(_log_desk(parts)), server)


def _log_desk(parts: Parts) -> LogDesk:
    return LogDesk(
        gate=parts.gate,
        members=parts.members,
        auditors=parts.auditors,
        runs=parts.runs,
        store=LogStore(parts.engine),
        evidence=parts.evidence,
    )


def _credentials(authority: Authority) -> grpc.ServerCredentials:
    """Asked anew for every connection, so that a renewed certificate needs no restart."""
    shown = ShownCertificate(authority.own, authority.authority_pem)
    return grpc.dynamic_ssl_server_credentials(
        shown(),
        shown.change,  # type: ignore[arg-type]  # None is gRPC's own word for "unchanged"
        require_client_authentication=True,
    )


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
        reflect(server)


async def _refresh_releases(releaser: Releases) -> None:
    """The timestamp is short-lived on purpose; the server renews it while it lives."""
    while True:
        try:
            await asyncio.to_thread(releaser.refresh, utc_now())
        except Exception:  # noqa: BLE001 - the seam of the task: a full disk must not end it
            _log.exception("the timestamp of the releases was not renewed; trying again later")
        await asyncio.sleep(_TIMESTAMP_PERIOD_S)


async def serve(state: StateFolder, port: int | None = None) -> None:
    """Runs the server until SIGTERM or SIGINT; unfinished runs go on at the next start.

    Args:
        state: where the operator's state lies.
        port: to listen on, where it is not the settings' own: several servers share one state.

    Raises:
        InvalidInputError: the state is damaged or the port is taken.
        ConflictError: another server works on the same SQLite file.
    """
    parts = assemble(state, port=port)
    async with running(parts):
        _log.info("listening on %s:%s", parts.settings.listen, parts.settings.port)
        await until_told_to_stop(rotate=parts.authority.own.rotate)


@contextlib.asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[None]:
    """The server at work; at the end its streams are closed and the run in hand stays unfinished.

    Raises:
        InvalidInputError: the port is taken.
        ConflictError: another server works on the same SQLite file.
    """
    with sole_server(parts.engine):
        async with _running(parts):
            yield


@contextlib.asynccontextmanager
async def _running(parts: Parts) -> AsyncIterator[None]:
    parts.switchboard.attach(asyncio.get_running_loop())
    streams = OpenStreams(parts.gate)
    share_arenas()
    server = grpc.aio.server(options=_OPTIONS, interceptors=(streams,))
    _services(server, parts, streams)
    await _bind(server, parts)
    await asyncio.to_thread(parts.scribe.start)
    await server.start()
    worker, scheduler = _worker(parts), _scheduler(parts)
    worker.start()
    scheduler.start()
    refresh = asyncio.create_task(_refresh_releases(parts.releaser))
    checks = asyncio.create_task(streams.check_for_ever())
    try:
        yield
    finally:
        refresh.cancel()
        checks.cancel()
        await asyncio.to_thread(scheduler.stop)
        await asyncio.to_thread(worker.stop)
        await asyncio.to_thread(parts.scribe.stop)
        await asyncio.to_thread(parts.switchboard.close)
        await server.stop(_GRACE_S)
        parts.engine.dispose()


def _launcher(parts: Parts) -> Launcher:
    return Launcher(
        settings=parts.settings,
        plan_key=parts.authority.plan_key,
        runs=parts.runs,
        journal=parts.journal,
        switchboard=parts.switchboard,
        allowed_apps=parts.allowed_apps,
    )


def _scheduler(parts: Parts) -> Scheduler:
    return Scheduler(
        StandingOrders(
            schedules=parts.schedules,
            runs=parts.runs,
            journal=parts.journal,
            launcher=_launcher(parts),
        )
    )


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
        trust=Trust(authorities=(parts.authority.certificate,)),
        owner=parts.name,
        lease_s=parts.settings.run_lease_s,
        allowed_apps=parts.allowed_apps,
    )
