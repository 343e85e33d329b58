"""A client and a server in one process that can be killed at every durable write and every send.

    world = CrashWorld(tmp_path, Fuse(at={7}))
    with world.lit(monkeypatch):
        world.carry_out()

Every call of the operating system that makes something durable (``fsync``, ``replace``,
``unlink``), every commit of the database, every message on the line and the training itself burns
the fuse a little, before and after. Where it is burnt down, that side dies: what Python would still
do on its way out (``finally``, ``except``) can write nothing any more, and all its objects are made
anew from the disk. Only the line and the clock are the test's own.
"""

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from hansa.client.interruption import interruptible
from hansa.client.ledger_store import LedgerFile, LedgerStore
from hansa.client.node.codec import TaskCodec
from hansa.client.node.outbox import Letter, Outbox
from hansa.client.node.work import Worker
from hansa.client.site import Site, SiteSettings
from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.contract import Contract
from hansa.core.errors import HansaError, TransportError
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.ids import MerchantId, RunId, Sha256, task_id
from hansa.core.privacy.bodies import Reserve
from hansa.core.signing import key_id_of, sign, signing_key
from hansa.core.storage import BlobStore
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from hansa.server.ledger_desk import LedgerDesk
from hansa.server.plane.federation import Desk, FederationService
from hansa.server.rounds.checkpoints import Checkpoints, RoundOutcome
from hansa.server.state.database import open_database
from hansa.server.state.journal import LedgerCopies
from hansa.server.state.members import Joining, Members
from hansa.server.state.runs import Runs
from hansa.server.state.tables import TaskRow
from hansa.server.state.tasks import NewTask, Tasks
from hansa.server.state.uploads import Deliveries
from hansa.server.switchboard import Switchboard
from hansa.server.uploads import Slot, Uploads
from tests.fakes.entropy import SeededEntropy
from tests.fakes.toy_federation import CONTEXT, FIRST_MODEL, MODEL, Crash, ToyApplication, toy_plan

MILL = MerchantId("mill")
KEY = signing_key(b"p" * 32)
NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
PLAN = toy_plan(rounds=1, quorum=1)
RUN = RunId("toy-0001")
TASK = task_id(RUN, 1, "train", MILL)
REQUEST = Content(arrays={"arrays": FIRST_MODEL}, configs={"config": {"server-round": 1}})
CONTRACT = Contract(metrics_share=1.0)
ATTEMPTS = 8


class Fuse:
    """Counts the crash points as they are passed, and kills at those it was set to."""

    def __init__(self, at: set[int] | None = None) -> None:
        self._at = at or set()
        self.passed: list[str] = []
        self.dead = False

    def point(self, name: str) -> None:
        """Dies here, if it is set to; whoever is dead writes nothing any more."""
        if self.dead:
            raise Crash
        self.passed.append(name)
        if len(self.passed) - 1 in self._at:
            self.dead = True
            raise Crash

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        self.point(f"before {name}")
        yield
        self.point(f"after {name}")

    def wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **more: Any) -> Any:
            with self.around(name):
                return call(*args, **more)

        return wrapper


class Trainer(ToyApplication):
    """Each training gives other bytes, so that a second one would show."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self._fuse = fuse
        self.results: list[Sha256] = []

    def __call__(self, *args: Any) -> bytes:
        self._fuse.point("before training")
        self.step = 1.0 + len(self.results)
        reply = super().__call__(*args)
        self.results.append(sha256_hex(reply))
        self._fuse.point("after training")
        return reply


class ServerSide:
    """The server's books, opened anew after each of its deaths."""

    def __init__(self, folder: Path, fuse: Fuse) -> None:
        self.engine = open_database(folder / "hansa.db")
        self.light(fuse)
        self.members, self.tasks = Members(self.engine, time.time), Tasks(self.engine)
        self.runs, self.copies = Runs(self.engine, time.time), LedgerCopies(self.engine)
        self.blobs = BlobStore(folder / "blobs")
        deliveries = Deliveries(self.engine)
        self.uploads = Uploads(folder / "uploads", self.blobs, deliveries, self.tasks)
        self.desk = LedgerDesk(self.members, self.copies, self.uploads.received)
        desk = Desk(
            gate=None,  # type: ignore[arg-type] - who calls is decided before
            members=self.members,
            tasks=self.tasks,
            runs=self.runs,
            blobs=self.blobs,
            uploads=self.uploads,
            ledgers=self.desk,
            switchboard=Switchboard(),
        )
        self.service = FederationService(desk)

    def light(self, fuse: Fuse) -> None:
        """From here on commits burn this fuse."""
        commit = type(self.engine.dialect).do_commit.__get__(self.engine.dialect)
        self.engine.dialect.do_commit = fuse.wrapped("commit", commit)  # type: ignore[method-assign]

    def checkpoint(self) -> None:
        """The round's aggregate, once its only update is here; what the loop of rounds does."""
        book = Checkpoints(RUN, self.runs, self.blobs)
        (row,) = self.tasks.states([TASK])
        if book.records() or row.state != "done":
            return
        accepted = [MILL] if row.result_sha256 and not row.reason else []
        if accepted:
            book.write(
                RoundOutcome(
                    number=1,
                    started=time.monotonic(),
                    rows={MILL: row},
                    accepted=accepted,
                    refused={},
                    aggregate=FIRST_MODEL,
                )
            )


class Line:
    """Stands for the wire: each call goes to the server as it is, or breaks where it dies."""

    def __init__(self, world: "CrashWorld", session: pb.Session, *, inline: bool) -> None:
        self._world = world
        self._inline = inline
        self._session = session.session
        self.ledger_position = session.next_ledger_position

    def download(self, _task: str, blob: common.BlobRef, store: BlobStore) -> Path:
        data = self._world.call(lambda server: server.blobs.read(Sha256(blob.sha256)))
        return store.path(store.put(data))

    def upload(self, outbox: Outbox, letter: Letter) -> None:
        pieces = list(outbox.chunks(letter, 0, 1 << 20))
        with self._world.fuse.around("send of the upload"):
            self._world.call(lambda server: self._stream(server, letter, pieces))

    @staticmethod
    def _stream(server: ServerSide, letter: Letter, pieces: list[bytes]) -> None:
        row = server.tasks.find(letter.task_id, MILL)
        wanted = row is not None and row.state == "open"
        slot = Slot.checked(MILL, letter.task_id, letter.sha256, letter.size_bytes, wanted=wanted)
        stored = server.uploads.offset(slot)
        incoming = server.uploads.begin(slot, stored)
        try:
            if stored < letter.size_bytes:
                incoming.append([b"".join(pieces)[stored:]])
            incoming.finish()
        finally:
            server.uploads.end(incoming)

    def complete(self, letter: Letter, entries: bytes, content: bytes = b"") -> pb.Acknowledgement:
        blob = common.BlobRef(sha256=letter.sha256, size_bytes=letter.size_bytes)
        data = content if self._inline else b""
        return self._close(
            pb.CompleteRequest(
                task_id=letter.task_id, content=blob, ledger_entries=entries, content_data=data
            )
        )

    def refuse(self, task: str, refusal: pb.Refusal, entries: bytes) -> pb.Acknowledgement:
        return self._close(
            pb.CompleteRequest(task_id=task, refusal=refusal, ledger_entries=entries)
        )

    def _close(self, request: pb.CompleteRequest) -> pb.Acknowledgement:
        request.session = self._session
        with self._world.fuse.around("send of the result"):
            reply = self._world.call(lambda server: server.service._complete(MILL, request))
        self.ledger_position = reply.next_ledger_position
        return reply.acknowledgement


class CrashWorld:
    """One merchant, one server, one task, and a fuse."""

    def __init__(
        self, folder: Path, fuse: Fuse, *, inline: bool = True, gives_up: bool = False
    ) -> None:
        """``gives_up``: the work is unwanted as soon as it is paid for."""
        self.fuse = fuse
        self._folder = folder
        self._inline = inline
        self._gives_up = gives_up
        self.site = Site(folder / "site")
        self.server = ServerSide(folder, Fuse())
        self.trainer = Trainer(fuse)
        self._signed = sign(PLAN.model_dump(mode="json"), KEY, domain=PLAN_DOMAIN).to_bytes()

    def prepare(self) -> None:
        """The member, the run and its one task; once, in a folder that is copied for each world."""
        with LedgerStore.create(
            self.site.ledger, cap_epsilon=8.0, delta=1e-5, entropy=SeededEntropy(1), now=NOW
        ) as store:
            store.accept(CONTRACT, now=NOW)
            public_key = bytes.fromhex(store.ledger.opening.public_key)
        server = self.server
        server.members.invite(MILL, serial="1", expires=9e9)
        joining = Joining(
            request_sha256="r" * 64,
            certificate_der=b"c",
            certificate_expires=9e9,
            ledger_public_key=public_key,
        )
        server.members.join(MILL, joining)
        server.runs.queue(RUN, PLAN, self._signed)
        sha = server.blobs.put(REQUEST.to_bytes())
        server.runs.note_context(RUN, server.blobs.put(CONTEXT.to_bytes()))
        task = NewTask(
            task_id=TASK,
            run_id=RUN,
            round_number=1,
            phase="train",
            merchant=MILL,
            content_sha256=sha,
            content_bytes=len(REQUEST.to_bytes()),
            deadline=9e9,
        )
        server.tasks.post([task])
        server.engine.dispose()

    @contextmanager
    def lit(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """From here on every durable write burns the fuse."""
        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "unlink"):
                patch.setattr(os, name, self.fuse.wrapped(name, getattr(os, name)))
            keep = self.fuse.wrapped("entry", LedgerFile.keep)
            patch.setattr(LedgerFile, "keep", keep)
            self.server.light(self.fuse)
            yield
        self.fuse.dead = False

    def call(self, work: Callable[[ServerSide], Any]) -> Any:
        """What the client asks of the server, which may die of it and stand up again."""
        try:
            return work(self.server)
        except Crash as crash:
            self._restart_server()
            raise TransportError("the line broke") from crash

    def _restart_server(self) -> None:
        self.fuse.dead = False
        self.server.engine.dispose()
        self.server = ServerSide(self._folder, self.fuse)

    def carry_out(self) -> None:
        """Both sides go on, after whatever deaths, until the task is closed and written down."""
        for _ in range(ATTEMPTS):
            try:
                self._one_life()
            except Crash:
                self.fuse.dead = False
            except TransportError:
                continue
            if self._is_over():
                return
        raise AssertionError("it never came to an end")

    def _one_life(self) -> None:
        """One process of the client, from its start to its end, and then the server's own work."""
        store = LedgerStore.open(self.site.ledger)
        try:
            self._work(store)
        finally:
            store.close()
        try:
            self.server.checkpoint()
        except Crash:
            self._restart_server()

    def _work(self, store: LedgerStore) -> None:
        hello = pb.RegisterRequest(protocol="1", protocol_minor=1)
        session = self.call(lambda server: server.service._register(MILL, hello))
        worker, line = self._worker(store), Line(self, session, inline=self._inline)
        worker.check_seen(session.next_ledger_position)
        worker.settle(line)  # type: ignore[arg-type]
        row = self.row()
        if row.state == "open":
            paid = interruptible(lambda: store.ledger.reservation(TASK) is not None)
            with paid if self._gives_up else nullcontext():
                worker.do(self._task(), line)  # type: ignore[arg-type]

    def _worker(self, store: LedgerStore) -> Worker:
        settings = SiteSettings(
            merchant=MILL,
            server_address="127.0.0.1:1",
            plan_public_key=key_id_of(KEY),
            base_models={MODEL: self.site.path},
        )
        return Worker(
            settings,
            store,
            Outbox(self.site.outbox),
            BlobStore(self.site.contexts),
            self.trainer,
            lambda: NOW,
            TaskCodec.of(self.site, store.ledger),
        )

    def _task(self) -> pb.Task:
        return pb.Task(
            task_id=TASK,
            run_id=RUN,
            round=1,
            phase=pb.PHASE_TRAIN,
            content=_blob(REQUEST.to_bytes()),
            context=_blob(CONTEXT.to_bytes()),
            signed_plan=self._signed,
        )

    def row(self) -> TaskRow:
        """The task as the server has it."""
        (row,) = self.server.tasks.states([TASK])
        return row

    def _is_over(self) -> bool:
        row, letters = self.row(), Outbox(self.site.outbox).letters()
        if self._gives_up and not letters and not self.trainer.results:
            return row.state != "open" or self._is_paid()
        written = row.state != "done" or bool(self.server.runs.rounds(RUN))
        return row.state != "open" and written and not letters

    def _is_paid(self) -> bool:
        try:
            with LedgerStore.open(self.site.ledger) as store:
                return any(isinstance(one.body, Reserve) for one in store.ledger.entries)
        except HansaError:
            return False


def _blob(data: bytes) -> common.BlobRef:
    return common.BlobRef(sha256=sha256_hex(data), size_bytes=len(data))
