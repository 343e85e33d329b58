"""One task from its arrival to its acknowledgement.

The order is the guarantee: the plan is checked, its public records are fetched, the budget is
reserved, and only then are data touched, so that a line that breaks in the fetching costs nothing;
the update is on disk before its first byte leaves; what is on disk is sent again as it is and never
made twice.
"""

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from hansa.client.ledger_store import LedgerStore
from hansa.client.node.outbox import Letter, Outbox
from hansa.client.node.wire import Wire
from hansa.client.site import SiteSettings
from hansa.core.errors import (
    BudgetExhaustedError,
    ConflictError,
    InvalidInputError,
    LedgerError,
    SignatureError,
)
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.ids import MerchantId, RunId, TaskId, task_id
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.events import PrivacyEvent
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.signing import Signed
from hansa.core.storage import BlobStore, check_sha256
from hansa.protos.v1 import federation_pb2 as pb

_log = logging.getLogger(__name__)

_PHASES = {pb.PHASE_TRAIN: "train", pb.PHASE_EVALUATE: "evaluate"}


class Application(Protocol):
    """Runs the Flower app."""

    def prepare(self, plan: RunPlan) -> None:
        """Makes ready what a task of the plan needs; touches no shopper's data."""
        ...

    def __call__(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
        """From a task's content files to the content file of the reply."""
        ...


Clock = Callable[[], dt.datetime]


class _Refused(Exception):  # noqa: N818 - a decision, not a fault
    """The task is not done, for a reason that the server may know."""

    def __init__(self, reason: pb.RefusalReason, sentence: str) -> None:
        super().__init__(sentence)
        self.refusal = pb.Refusal(reason=reason, sentence=sentence[:500])


class Worker:
    """Does tasks, one at a time."""

    def __init__(
        self,
        settings: SiteSettings,
        store: LedgerStore,
        outbox: Outbox,
        contexts: BlobStore,
        application: Application,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._store = store
        self._outbox = outbox
        self._contexts = contexts
        self._application = application
        self._clock = clock

    def check_seen(self, next_position: int) -> None:
        """Refuses to work with an old copy of the ledger, which would forget what was spent.

        Args:
            next_position: the first entry that the server does not hold.

        Raises:
            LedgerError: the server holds more entries than there are here.
        """
        held = len(self._store.ledger.entries)
        if next_position > held:
            raise LedgerError(
                f"the server has seen {next_position} entries of this ledger, {held} are here: an "
                "old copy was restored; bring back the newest one"
            )

    def do(self, task: pb.Task, wire: Wire) -> None:
        """Answers a task with an update or a refusal; a repetition sends the same bytes again."""
        try:
            letter = self._outbox.find(TaskId(task.task_id)) or self._make(task, wire)
        except _Refused as refused:
            _log.warning("task %s refused: %s", task.task_id, refused)
            wire.refuse(task.task_id, refused.refusal, self._entries(wire))
            return
        self._deliver(letter, wire)

    def _deliver(self, letter: Letter, wire: Wire) -> None:
        """Commits again: a crash may have come between the outbox and the ledger."""
        self._store.commit(TaskId(letter.task_id), sha256=letter.digest, now=self._clock())
        wire.upload(self._outbox, letter)
        acknowledgement = wire.complete(letter, self._entries(wire))
        _log.info("task %s: %s", letter.task_id, pb.Acknowledgement.Name(acknowledgement))
        if acknowledgement == pb.ACKNOWLEDGEMENT_FENCED:
            raise ConflictError("another client of this merchant took over; stop one of the two")
        if acknowledgement != pb.ACKNOWLEDGEMENT_MISSING_BLOB:
            self._outbox.drop(TaskId(letter.task_id))

    def _make(self, task: pb.Task, wire: Wire) -> Letter:
        plan = self._checked_plan(task)
        phase = _PHASES[task.phase]
        contents = self._contents(task, wire)
        self._prepare(plan)
        self._reserve(task, plan, phase)
        return self._outbox.put(TaskId(task.task_id), self._run(plan, phase, contents))

    def _checked_plan(self, task: pb.Task) -> RunPlan:
        """Only what the operator signed, and what this site can and may do."""
        try:
            payload = Signed.parse(task.signed_plan, "the plan").verify(
                PLAN_DOMAIN, key_id=self._settings.plan_public_key
            )
            plan = parse_plan(payload, "the plan")
        except (SignatureError, InvalidInputError) as error:
            raise _Refused(pb.REFUSAL_REASON_CONTRACT, str(error)) from error
        if task.phase not in _PHASES or not 1 <= task.round <= plan.federation.rounds:
            raise _Refused(pb.REFUSAL_REASON_CONTRACT, "the task is not part of its plan")
        if task.task_id != self._own_id(task):
            raise _Refused(pb.REFUSAL_REASON_CONTRACT, "the task's id is not that of its work")
        if plan.model.base not in self._settings.base_models:
            raise _Refused(
                pb.REFUSAL_REASON_CONTRACT, f"no base model {plan.model.base!r} on this site"
            )
        if plan.privacy.delta > self._store.ledger.opening.delta:
            raise _Refused(pb.REFUSAL_REASON_CONTRACT, "the plan's delta is above this merchant's")
        return plan

    def _own_id(self, task: pb.Task) -> TaskId:
        """What the id must be, so that the same work cannot come again under another name."""
        merchant = MerchantId(self._settings.merchant)
        return task_id(RunId(task.run_id), task.round, _PHASES[task.phase], merchant)

    def _reserve(self, task: pb.Task, plan: RunPlan, phase: str) -> None:
        try:
            self._store.reserve(
                TaskId(task.task_id),
                plan_digest=plan.digest,
                run=RunId(task.run_id),
                round_number=task.round,
                phase=phase,
                events=_events(plan, phase),
                now=self._clock(),
            )
        except BudgetExhaustedError as error:
            raise _Refused(pb.REFUSAL_REASON_BUDGET, str(error)) from error
        except InvalidInputError as error:
            raise _Refused(pb.REFUSAL_REASON_CONTRACT, str(error)) from error
        except ConflictError as error:
            raise _Refused(
                pb.REFUSAL_REASON_INTERRUPTED,
                "an earlier attempt broke off; its budget stays spent",
            ) from error

    def _contents(self, task: pb.Task, wire: Wire) -> list[bytes]:
        """The task's content file and, where the run has one, its context file, fetched once."""
        own = wire.download(task.task_id, task.content)
        if not task.HasField("context"):
            return [own]
        sha = check_sha256(task.context.sha256)
        if not self._contexts.has(sha):
            self._contexts.put(wire.download(task.task_id, task.context))
        return [own, self._contexts.read(sha)]

    def _prepare(self, plan: RunPlan) -> None:
        """What needs no shopper, such as embedding the catalogue, is done before any spending."""
        with _faults_named():
            self._application.prepare(plan)

    def _run(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
        with _faults_named():
            return self._application(plan, phase, contents)

    def _entries(self, wire: Wire) -> bytes:
        entries = self._store.ledger.entries[wire.ledger_position :]
        return b"".join(entry.to_bytes() + b"\n" for entry in entries)


@contextmanager
def _faults_named() -> Iterator[None]:
    """Lets only the kind of a fault leave: its text may quote private data; it stays in the log."""
    try:
        yield
    except Exception as error:
        _log.exception("the work failed")
        raise _Refused(pb.REFUSAL_REASON_FAILED, type(error).__name__) from error


def _events(plan: RunPlan, phase: str) -> Sequence[PrivacyEvent]:
    privacy = PrivacyPlan.of(plan)
    if phase == "train":
        return [privacy.round_event()]
    event = privacy.evaluation_event()
    if event is None:
        raise _Refused(pb.REFUSAL_REASON_CONTRACT, "the plan lets no metric leave")
    return [event]
