"""One task from its arrival to its acknowledgement.

The order is the guarantee: the plan is checked, its public records are fetched, the budget is
reserved, and only then are data touched, so that a line that breaks in the fetching costs nothing;
the update is on disk before its first byte leaves; what is on disk is sent again as it is and never
made twice.
"""

import datetime as dt
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from hansa.client.interruption import WorkInterruptedError, check_wanted
from hansa.client.ledger_store import LedgerStore
from hansa.client.node.codec import TaskCodec
from hansa.client.node.delivery import Delivery
from hansa.client.node.downloads import Downloads
from hansa.client.node.gate import ContractGate
from hansa.client.node.guests import GuestRefusedError, Guests
from hansa.client.node.outbox import Letter, Outbox
from hansa.client.node.refusals import Refused, faults_named, message_checked, rules_named
from hansa.client.node.secure import Masking, RoundName, SecureRounds
from hansa.client.node.wire import Wire
from hansa.client.site import SiteSettings
from hansa.client.witness import Witness
from hansa.compression.content_codec import ContentCodec
from hansa.core.errors import (
    BudgetExhaustedError,
    ConflictError,
    InvalidInputError,
    LedgerError,
    NotFoundError,
    SignatureError,
    TransparencyError,
)
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.flower_plan import parse_any_plan
from hansa.core.ids import MerchantId, RunId, TaskId, task_id
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.secure.protocol import KEYS, LIGHT_STAGES, SHARES, SURVIVORS, TRAIN, UNMASK
from hansa.core.signing import Signed
from hansa.core.storage import BlobStore
from hansa.protos.v1 import federation_pb2 as pb

_log = logging.getLogger(__name__)

_DISK_ATTEMPTS = 600
_DISK_PAUSE_S = 1.0

_PHASES = {
    pb.PHASE_TRAIN: TRAIN,
    pb.PHASE_EVALUATE: "evaluate",
    pb.PHASE_KEYS: KEYS,
    pb.PHASE_SHARES: SHARES,
    pb.PHASE_SURVIVORS: SURVIVORS,
    pb.PHASE_UNMASK: UNMASK,
}


class Application(Protocol):
    """Runs the Flower app."""

    def prepare(self, plan: RunPlan) -> None:
        """Makes ready what a task of the plan needs; touches no shopper's data."""
        ...

    def __call__(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
        """From a task's content files to the content file of the reply."""
        ...


Clock = Callable[[], dt.datetime]


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
        codec: TaskCodec,
        secure: SecureRounds | None = None,
        guests: Guests | None = None,
        witness: Witness | None = None,
    ) -> None:
        """Takes its parts; without ``secure`` or ``guests`` it refuses such tasks."""
        self._settings = settings
        self._store = store
        self._outbox = outbox
        self._downloads = Downloads(contexts)
        self._application = application
        self._clock = clock
        self._codec = codec
        self._secure = secure
        self._guests = guests
        self._witness = witness
        self._gate = ContractGate(store, clock)

    def check_clock(self, ahead: dt.timedelta) -> None:
        """Notes how far this machine's clock is ahead of the server's: a wrong one does no work."""
        self._gate.set_clock_error(ahead)

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
        """Answers a task with an update or a refusal; a repetition sends the same bytes again.

        Work that is given up is answered with nothing: its round is over, or the line is cut.
        """
        try:
            if self._guests is not None and self._guests.knows(task):
                self._do_guest(self._guests, task, wire)
            else:
                self._do_own(task, wire)
        except WorkInterruptedError:
            _log.warning("task %s was given up: nobody wants it any more", task.task_id)
            self._outbox.free_room()

    def _do_own(self, task: pb.Task, wire: Wire) -> None:
        try:
            if _PHASES.get(task.phase) in LIGHT_STAGES:
                self._do_stage(task, wire)
            else:
                self._do_work(task, wire)
        except Refused as refused:
            _log.warning("task %s refused: %s", task.task_id, refused)
            self._outbox.free_room()
            wire.refuse(task.task_id, refused.refusal, self._entries(wire))

    def _do_stage(self, task: pb.Task, wire: Wire) -> None:
        """A stage of a secure round that touches no data: nothing is reserved or committed.

        The round's secrets, which are on the disk, give the same answer again.
        """
        plan = self._checked_plan(task)
        with message_checked():
            request = self._downloads.content(task, wire)
        with rules_named():
            secure = self._secure_rounds(plan)
            answer = secure.answer(_PHASES[task.phase], plan, _round_of(task), request)
        self._delivery(wire).deliver(self._outbox.hold(TaskId(task.task_id), answer))
        if task.phase == pb.PHASE_UNMASK:
            secure.forget(plan, _round_of(task))

    def _do_work(self, task: pb.Task, wire: Wire) -> None:
        letter = self._outbox.find(TaskId(task.task_id)) or self._make(task, wire)
        # Once more, where a crash came between the outbox and the ledger.
        self._store.commit(TaskId(letter.task_id), sha256=letter.digest, now=self._clock())
        self._delivery(wire).deliver(letter)

    def _delivery(self, wire: Wire) -> Delivery:
        return Delivery(wire, self._outbox, lambda: self._entries(wire))

    def _do_guest(self, guests: Guests, task: pb.Task, wire: Wire) -> None:
        try:
            letter = guests.answer(task, lambda: self._guest_contents(task, wire))
        except (GuestRefusedError, Refused) as refused:
            _log.warning("task %s refused: %s", task.task_id, refused)
            wire.refuse(task.task_id, refused.refusal, self._entries(wire))
            return
        self._delivery(wire).deliver(letter)

    def _guest_contents(self, task: pb.Task, wire: Wire) -> list[bytes]:
        """What an allowed app gets; the signature on its plan was checked before."""
        plan = parse_any_plan(Signed.parse(task.signed_plan, "the plan").payload, "the plan")
        self._gate.check_task(task, plan)
        return self._contents(task, wire)

    def settle(self, wire: Wire) -> None:
        """Asks what became of every finished update that is still here.

        Where an acknowledgement was lost, or a round closed meanwhile, the server hands the task
        out no more, and the update would lie here for ever. One that the server still waits for
        stays, and is sent when its task comes again. One that the server will never take is
        dropped: it would end every later session too.

        Raises:
            ConflictError: another client of the same merchant took over.
        """
        for letter in self._outbox.letters():
            with suppress(NotFoundError):  # some answers let nothing out, and nothing was reserved
                self._store.commit(TaskId(letter.task_id), sha256=letter.digest, now=self._clock())
            try:
                self._delivery(wire).conclude(letter)
            except InvalidInputError as error:
                _log.error("the answer to task %s is dropped: %s", letter.task_id, error)
                self._outbox.drop(TaskId(letter.task_id))

    def _make(self, task: pb.Task, wire: Wire) -> Letter:
        plan = self._checked_plan(task)
        phase = _PHASES[task.phase]
        contents = self._opened(plan, phase, self._contents(task, wire))
        masking = self._begin_masking(task, plan, contents[0]) if phase == TRAIN else None
        if masking is not None:
            contents = [masking.task(), *contents[1:]]
        self._check_size(plan, phase, contents, masking)
        self._prepare(plan)
        self._outbox.make_room(len(contents[0]))
        check_wanted()  # what is unwanted by now costs nothing
        self._reserve(task, plan, phase)
        self._begin(TaskId(task.task_id))
        reply = self._run(task, plan, phase, contents)
        if masking is not None:
            with faults_named():
                reply = masking.mask(reply)
        check_wanted()  # not every work asks before it ends
        return self._keep(TaskId(task.task_id), reply)

    def _begin(self, task: TaskId) -> None:
        """The last look before data are touched: nothing can have left, so nothing stays spent.

        From here on an open reservation stays spent, whatever becomes of it.
        """
        try:
            check_wanted()
        except WorkInterruptedError:
            if self._store.ledger.accepted is not None:  # the server can read such an entry
                self._store.release(task, now=self._clock())
            raise

    def _check_size(
        self, plan: RunPlan, phase: str, contents: Sequence[bytes], masking: Masking | None
    ) -> None:
        """An answer that is bound to be too large is refused before anything is spent.

        An update has the arrays that came, in a form of its own where it is masked; how small a
        codec makes it, nobody knows before.
        """
        if phase != TRAIN or ContentCodec.of(plan.federation, phase).codes_up:
            return
        with message_checked():
            size = len(contents[0]) if masking is None else masking.size_bytes
            self._outbox.check_size(size)
            self._gate.check_answer(size)

    def _keep(self, task: TaskId, reply: bytes) -> Letter:
        """It is paid for, and cannot be made again: a disk that is full is given time."""
        self._gate.check_answer(len(reply))
        try:
            self._outbox.check_size(len(reply))
        except InvalidInputError as error:
            raise Refused(pb.REFUSAL_REASON_FAILED, str(error)) from error
        for _ in range(_DISK_ATTEMPTS):
            try:
                return self._outbox.put(task, reply)
            except OSError as error:
                _log.error("a finished update cannot be kept (%s); free some space", error)
                check_wanted()
                time.sleep(_DISK_PAUSE_S)
        return self._outbox.put(task, reply)

    def _begin_masking(self, task: pb.Task, plan: RunPlan, request: bytes) -> Masking | None:
        if plan.federation.secure_aggregation is None:
            return None
        with rules_named():
            return self._secure_rounds(plan).begin(plan, _round_of(task), request)

    def _secure_rounds(self, plan: RunPlan) -> SecureRounds:
        if plan.federation.secure_aggregation is None:
            raise InvalidInputError("the plan does not ask for secure aggregation")
        if self._secure is None:
            raise InvalidInputError("this client takes no part in secure rounds")
        return self._secure

    def _checked_plan(self, task: pb.Task) -> RunPlan:
        """Only what the operator signed, and what this site can and may do."""
        try:
            payload = Signed.parse(task.signed_plan, "the plan").verify(
                PLAN_DOMAIN, key_id=self._settings.plan_public_key
            )
            plan = parse_plan(payload, "the plan")
        except (SignatureError, InvalidInputError) as error:
            raise Refused(pb.REFUSAL_REASON_CONTRACT, str(error)) from error
        first = 0 if task.phase == pb.PHASE_EVALUATE else 1
        if task.phase not in _PHASES or not first <= task.round <= plan.federation.rounds:
            raise Refused(pb.REFUSAL_REASON_CONTRACT, "the task is not part of its plan")
        if task.task_id != self._own_id(task):
            raise Refused(pb.REFUSAL_REASON_CONTRACT, "the task's id is not that of its work")
        if plan.model.base not in self._settings.base_models:
            raise Refused(
                pb.REFUSAL_REASON_CONTRACT, f"no base model {plan.model.base!r} on this site"
            )
        if plan.privacy.delta > self._store.ledger.opening.delta:
            raise Refused(pb.REFUSAL_REASON_CONTRACT, "the plan's delta is above this merchant's")
        self._gate.check_task(task, plan)
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
                events=PrivacyPlan.of(plan).events_for(phase),
                now=self._clock(),
            )
        except BudgetExhaustedError as error:
            raise Refused(pb.REFUSAL_REASON_BUDGET, str(error)) from error
        except InvalidInputError as error:
            raise Refused(pb.REFUSAL_REASON_CONTRACT, str(error)) from error
        except ConflictError as error:
            released = self._store.ledger.is_released(TaskId(task.task_id))
            kept = " and was not spent" if released else "; its budget stays spent"
            raise Refused(
                pb.REFUSAL_REASON_INTERRUPTED, f"an earlier attempt broke off{kept}"
            ) from error

    def _look_at_log(self, task: pb.Task, wire: Wire) -> None:
        """No work for a server whose log was cut, rewritten or forked."""
        if self._witness is None:
            return
        try:
            self._witness.check(
                task.checkpoint,
                wire.log,
                entries=self._store.ledger.entries,
                acknowledged=wire.ledger_position,
                now=self._clock(),
            )
        except TransparencyError as error:
            raise Refused(pb.REFUSAL_REASON_CONTRACT, str(error)) from error

    def _contents(self, task: pb.Task, wire: Wire) -> list[bytes]:
        """The task's content file and, where the run has one, its context file."""
        self._look_at_log(task, wire)
        with message_checked():
            return self._downloads.all(task, wire)

    def _prepare(self, plan: RunPlan) -> None:
        """What needs no shopper, such as embedding the catalogue, is done before any spending."""
        with faults_named():
            self._application.prepare(plan)

    def _opened(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> Sequence[bytes]:
        try:
            return self._codec.open(plan, phase, contents)
        except InvalidInputError as error:
            raise Refused(pb.REFUSAL_REASON_CONTRACT, str(error)) from error

    def _run(self, task: pb.Task, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
        with faults_named():
            reply = self._application(plan, phase, contents)
            return self._codec.seal(
                plan,
                phase,
                run=RunId(task.run_id),
                task=TaskId(task.task_id),
                opened=contents,
                reply=reply,
            )

    def _entries(self, wire: Wire) -> bytes:
        entries = self._store.ledger.entries[wire.ledger_position :]
        return b"".join(entry.to_bytes() + b"\n" for entry in entries)


def _round_of(task: pb.Task) -> RoundName:
    return RoundName(run=RunId(task.run_id), number=task.round)
