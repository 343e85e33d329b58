"""A whole federation on loopback: a real server with real certificates, real clients, toy models.

with Federation(tmp_path) as federation:
    federation.start_server()
    harbour = federation.join("harbour")
    federation.start_clients({harbour: ToyApplication(1.0)})
    run = federation.finish(toy_plan(quorum=1))
"""

import asyncio
import atexit
import contextlib
import datetime as dt
import functools
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from hansa.client.enrol import Terms, join
from hansa.client.entropy import SystemEntropy
from hansa.client.halt import HaltSwitch
from hansa.client.ledger_store import LedgerStore
from hansa.client.node.codec import TaskCodec
from hansa.client.node.guests import Guests
from hansa.client.node.loop import NodeLoop
from hansa.client.node.outbox import Outbox
from hansa.client.node.secure import SecureRounds
from hansa.client.node.work import Application, Worker
from hansa.client.participation import Participation
from hansa.client.site import Site
from hansa.client.witness import Witness
from hansa.core.credentials import read_credentials
from hansa.core.errors import TransportError
from hansa.core.flower_plan import AnyPlan
from hansa.core.identity import SERVER_DNS_NAME, Credentials
from hansa.core.invitation import Invitation
from hansa.core.storage import BlobStore
from hansa.core.update import Arrays
from hansa.protos.v1 import operator_pb2 as pb
from hansa.protos.v1.enrolment_pb2_grpc import EnrolmentStub
from hansa.protos.v1.federation_pb2_grpc import FederationStub
from hansa.protos.v1.operator_pb2_grpc import OperatorStub
from hansa.server.authority import Authority
from hansa.server.initialise import initialise
from hansa.server.operator_client import OperatorClient, connect
from hansa.server.plane.peer import Gate
from hansa.server.rounds.checkpoints import load_arrays
from hansa.server.serve import Parts, assemble, running
from hansa.server.settings import ServerSettings, StateFolder
from tests.fakes.toy_federation import MODEL, open_toy_releases

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 20.0
FINISHED = ("completed", "failed", "stopped")
OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.ssl_target_name_override", SERVER_DNS_NAME),
    ("grpc.enable_http_proxy", 0),
)


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, ready: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    until = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < until, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.02)


class Clock:
    """The real time, shifted as the test says."""

    def __init__(self) -> None:
        self._shift = dt.timedelta()

    def __call__(self) -> dt.datetime:
        return utc_now() + self._shift

    @contextlib.contextmanager
    def shifted(self, by: dt.timedelta) -> Iterator[None]:
        self._shift = by
        try:
            yield
        finally:
            self._shift = dt.timedelta()


def _settings(folder: Path, address: str, **more: Any) -> ServerSettings:
    return ServerSettings(
        address=address, listen="127.0.0.1", base_models={MODEL: folder / "model"}, **more
    )


@functools.cache
def _fresh_operator() -> Path:
    """What ``hansa-server init`` makes, once for all tests: each federation begins with a copy."""
    folder = Path(tempfile.mkdtemp(prefix="hansa-operator-"))
    atexit.register(shutil.rmtree, folder)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    initialise(StateFolder(folder / "server"), _settings(folder, "127.0.0.1:1"), utc_now())
    return folder


class Caller:
    """The raw stubs over one connection, with whatever certificate it shows."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.enrolment = EnrolmentStub(channel)  # type: ignore[no-untyped-call]
        self.federation = FederationStub(channel)  # type: ignore[no-untyped-call]
        self.operator = OperatorStub(channel)  # type: ignore[no-untyped-call]


class Server:
    """``hansa.server.serve.running`` in a thread of its own."""

    def __init__(self, state: StateFolder, clock: Clock, port: int | None = None) -> None:
        self.parts = _with_clock(assemble(state, open_toy_releases, port=port), state, clock)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._told = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(TIMEOUT_S)

    def stop(self) -> None:
        """As SIGTERM does; stopping twice does no harm."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._told.set)
            self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async with running(self.parts):
            self._ready.set()
            await self._told.wait()


def _with_clock(parts: Parts, state: StateFolder, clock: Clock) -> Parts:
    authority = Authority(
        state.authority, settings=parts.settings, tuf_root=parts.authority.tuf_root, now=clock
    )
    return replace(parts, gate=Gate(parts.members, clock), authority=authority)


class ServerProcess:
    """The same server as a process of its own, which can be killed."""

    def __init__(self, state: StateFolder, port: int) -> None:
        command = [sys.executable, "-m", "tests.fakes.toy_server", str(state.path), str(port)]
        self._process = subprocess.Popen(command, cwd=ROOT)

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """As ``kill -9`` does; stopping twice does no harm."""
        self._process.kill()
        self._process.wait(TIMEOUT_S)


@dataclass
class Client:
    """A merchant's node loop in a thread of its own; the ledger's lock is held while it lives."""

    site: Site
    application: Application
    outbox: Callable[[Path], Outbox] = Outbox
    fault: BaseException | None = None
    """What ended the loop, if nobody told it to stop."""
    _told: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def start(self) -> None:
        self._thread = threading.Thread(target=self.run_here, name=self.site.path.name)
        self._thread.start()

    def tell_to_stop(self) -> None:
        self._told.set()

    def wait(self) -> BaseException | None:
        """Waits for the loop's end; returns its fault."""
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return self.fault

    def run_here(self) -> None:
        """Runs the loop to its end."""
        settings = self.site.settings()
        parts = (self.outbox(self.site.outbox), BlobStore(self.site.contexts), self.application)
        try:
            with LedgerStore.open(self.site.ledger) as store:
                codec = TaskCodec.of(self.site, store.ledger)
                secure = SecureRounds(self.site, SystemEntropy(), utc_now)
                guests = Guests(self.site, settings, store, parts[0], utc_now)
                witness = Witness.of(self.site)
                worker = Worker(settings, store, *parts, utc_now, codec, secure, guests, witness)
                NodeLoop(self.site, settings, worker).run(self._told)
        except BaseException as error:  # noqa: BLE001 - some tests let a client crash
            self.fault = error


class Participant:
    """A site's whole taking part, kill switch included, in a thread of its own."""

    def __init__(self, site: Site, application: Application) -> None:
        self._site = site
        self._application = application
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._run, name=site.path.name)
        self._thread.start()

    def stop(self) -> None:
        """As SIGTERM does."""
        self._told.set()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with LedgerStore.open(self._site.ledger) as store:
            Participation(HaltSwitch(self._site.halt), lambda: self._node(store)).run(self._told)

    def _node(self, store: LedgerStore) -> NodeLoop:
        settings = self._site.settings()
        parts = (Outbox(self._site.outbox), BlobStore(self._site.contexts), self._application)
        codec = TaskCodec.of(self._site, store.ledger)
        return NodeLoop(self._site, settings, Worker(settings, store, *parts, utc_now, codec))


class Federation:
    """One operator's state, and the merchants' sites beside it; its end stops whatever runs.

    With several ``servers``, which need a ``database_url``, each listens on one of the ``ports``.
    """

    def __init__(self, folder: Path, *, servers: int = 1, **settings: Any) -> None:
        self.folder = folder
        self.clock = Clock()
        self.state = StateFolder(folder / "server")
        self.ports = [free_port() for _ in range(servers)]
        self.address = f"127.0.0.1:{self.ports[0]}"
        if servers > 1:
            self.address = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self._servers: list[Server | ServerProcess] = []
        self._clients: list[Client] = []
        shutil.copytree(_fresh_operator(), folder, dirs_exist_ok=True)
        self.state.write(_settings(folder, self.address, **settings))

    def __enter__(self) -> "Federation":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.tell_to_stop()
        for client in self._clients:
            client.wait()
        for server in self._servers:
            server.stop()

    def start_server(self, number: int = 0) -> Server:
        """A server on this state; it may be stopped, and another one started."""
        server = Server(self.state, self.clock, self.ports[number])
        server.start()
        self._servers.append(server)
        return server

    def start_server_process(
        self, number: int = 0, state: StateFolder | None = None
    ) -> ServerProcess:
        """The same in a process of its own, once it answers; perhaps on a copy of the state."""
        server = ServerProcess(state or self.state, self.ports[number])
        self._servers.append(server)
        wait_until("the server's answer", lambda: self._answers(self.ports[number]))
        return server

    def _answers(self, port: int) -> bool:
        try:
            with connect(self.state, f"127.0.0.1:{port}") as client:
                client.merchants()
        except TransportError:
            return False
        return True

    @contextlib.contextmanager
    def operator(self) -> Iterator[OperatorClient]:
        """The operator's own client, at whichever server answers."""
        with connect(self.state, self.address) as client:
            yield client

    def operators(self) -> Credentials:
        """The operator's certificate."""
        return read_credentials(self.state.authority, "operator")

    @contextlib.contextmanager
    def caller(self, own: Credentials | None, *, root: bytes | None = None) -> Iterator[Caller]:
        """Raw stubs that show the given certificate, or none."""
        root = root or (self.state.authority / "authority.pem").read_bytes()
        pair = (None, None) if own is None else (own.key_pem, own.certificate_pem)
        credentials = grpc.ssl_channel_credentials(root, *pair)
        with grpc.secure_channel(self.address, credentials, options=OPTIONS) as channel:
            yield Caller(channel)

    def invite(self, name: str, hours: int = 1) -> Invitation:
        with self.operator() as client:
            return Invitation.from_token(client.invite(name, hours).token)

    def join(self, name: str, *, cap: float = 8.0, hours: int = 1) -> Site:
        """A member's site, made by the real invitation and the real join."""
        site = Site(self.folder / "sites" / name)
        terms = Terms(
            epsilon_cap=cap,
            delta=1e-5,
            base_models={MODEL: self.folder / "model"},
            serving_port=0,
            update_period_s=60.0,
        )
        join(site, self.invite(name, hours), terms, utc_now())
        return site

    def start_client(
        self, site: Site, application: Application, outbox: Callable[[Path], Outbox] = Outbox
    ) -> Client:
        """A client that tries to connect from now on."""
        client = Client(site, application, outbox)
        client.start()
        self._clients.append(client)
        return client

    def participate(self, site: Site, application: Application) -> Participant:
        """A site with its kill switch; the test stops it."""
        return Participant(site, application)

    def start_clients(self, applications: Mapping[Site, Application]) -> None:
        """Clients that are online when this returns."""
        for site, application in applications.items():
            self.start_client(site, application)
        self.wait_online({site.path.name for site in applications})

    def wait_online(self, names: set[str], timeout_s: float = TIMEOUT_S) -> None:
        with self.operator() as client:
            wait_until(
                f"{names} online",
                lambda: names <= {row.merchant for row in client.merchants() if row.online},
                timeout_s,
            )

    def allow(self, *refs: str) -> None:
        """The operator's list of foreign code."""
        settings = self.state.settings()
        allowed = tuple({*settings.allowed_apps, *refs})
        self.state.write(settings.model_copy(update={"allowed_apps": allowed}))

    def launch(self, plan: AnyPlan) -> str:
        """Queues a run; returns its name."""
        with self.operator() as client:
            return str(client.start_run(plan).run_id)

    def wait_for(self, run_id: str) -> pb.RunInfo:
        """The run once it has ended."""
        with self.operator() as client:
            wait_until(f"the end of {run_id}", lambda: client.run(run_id).state in FINISHED, 40.0)
            return client.run(run_id)

    def finish(self, plan: AnyPlan) -> pb.RunInfo:
        """A run from its launch to its end."""
        return self.wait_for(self.launch(plan))


def aggregates(server: Server, run_id: str) -> list[Arrays]:
    """The model after each round."""
    return [
        load_arrays(server.parts.blobs, record.aggregate_sha256)
        for record in server.parts.runs.rounds(run_id)
    ]


def refused(round_info: Any) -> dict[str, str]:
    """Who gave no valid update in a round, and for which reason."""
    return {task.merchant: task.reason for task in round_info.refused}
