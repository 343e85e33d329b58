"""Tasks of a foreign Flower app: allowed by name, run unchanged, declared before they are sent."""

import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence

from hansa.client.allowed_apps import AllowedApp, AllowedApps
from hansa.client.guest_app import GuestApp, GuestTask
from hansa.client.interruption import WorkInterruptedError, check_wanted
from hansa.client.ledger_store import LedgerStore
from hansa.client.node.outbox import Letter, Outbox
from hansa.client.site import Site, SiteSettings
from hansa.core.errors import HansaError, InvalidInputError, SignatureError, UnauthorisedError
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.flower_plan import KIND, FlowerPlan, parse_any_plan
from hansa.core.ids import MerchantId, RunId, TaskId, task_id
from hansa.core.signing import Signed
from hansa.protos.v1 import federation_pb2 as pb

_log = logging.getLogger(__name__)

_PHASES: Mapping[int, str] = {
    pb.PHASE_TRAIN: "train",
    pb.PHASE_EVALUATE: "evaluate",
    pb.PHASE_QUERY: "query",
}

Contents = Callable[[], Sequence[bytes]]


class GuestRefusedError(HansaError):
    """The task is not done, for a reason that the server may know."""

    def __init__(self, reason: pb.RefusalReason, sentence: str) -> None:
        super().__init__(sentence)
        self.refusal = pb.Refusal(reason=reason, sentence=sentence[:500])


class Guests:
    """Answers the tasks of Flower plans."""

    def __init__(
        self,
        site: Site,
        settings: SiteSettings,
        store: LedgerStore,
        outbox: Outbox,
        clock: Callable[[], dt.datetime],
    ) -> None:
        self._settings = settings
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._allowed = AllowedApps(site.allowed_apps)
        self._app = GuestApp(site.app_states)

    @staticmethod
    def knows(task: pb.Task) -> bool:
        """Whether the task's plan is a Flower plan; nothing of it is believed yet."""
        try:
            payload = Signed.parse(task.signed_plan, "the plan").payload
        except HansaError:
            return False
        return payload.get("kind") == KIND

    def answer(self, task: pb.Task, contents: Contents) -> Letter:
        """The finished result: made, kept and declared; a repetition gives the same bytes.

        Args:
            task: as it came.
            contents: fetches its content files; not called before the app is known to be allowed.

        Raises:
            GuestRefusedError: the merchant does not allow the app, or the app failed, or its answer
                is too large to be sent.
            WorkInterruptedError: the answer is not wanted any more; nothing of it is kept.
            LedgerError: the declaration could not be written.
        """
        plan = self._checked_plan(task)
        letter = self._outbox.find(TaskId(task.task_id)) or self._make(task, plan, contents)
        self._declare(task, plan, letter)
        return letter

    def _checked_plan(self, task: pb.Task) -> FlowerPlan:
        """Only what the operator signed, under the id of its work."""
        try:
            payload = Signed.parse(task.signed_plan, "the plan").verify(
                PLAN_DOMAIN, key_id=self._settings.plan_public_key
            )
            plan = parse_any_plan(payload, "the plan")
        except (SignatureError, InvalidInputError) as error:
            raise _contract(str(error)) from error
        own = task_id(
            RunId(task.run_id),
            task.round,
            _PHASES.get(task.phase, ""),
            MerchantId(self._settings.merchant),
        )
        if not isinstance(plan, FlowerPlan) or task.phase not in _PHASES or task.round < 1:
            raise _contract("the task is not part of its plan")
        if task.task_id != own:
            raise _contract("the task's id is not that of its work")
        return plan

    def _make(self, task: pb.Task, plan: FlowerPlan, contents: Contents) -> Letter:
        try:
            allowed = self._allowed.find(plan.client_app)
        except (UnauthorisedError, InvalidInputError) as error:
            raise _contract(str(error)) from error
        self._load(plan)
        answer = self._run(self._task(task, plan, allowed), contents())
        # An app never asks whether it is still wanted: what it made is thrown away here.
        check_wanted()
        try:
            return self._outbox.put(TaskId(task.task_id), answer)
        except InvalidInputError as error:
            raise GuestRefusedError(pb.REFUSAL_REASON_FAILED, str(error)) from error

    def _load(self, plan: FlowerPlan) -> None:
        """What an import says may name paths of this site: it stays in the log."""
        try:
            self._app.load(plan.client_app)
        except InvalidInputError as error:
            _log.error("%s", error)  # no traceback: the sentence says it all
            raise _contract(
                f"the app {plan.client_app!r} cannot be loaded on this site; its log says why"
            ) from error

    def _run(self, task: GuestTask, contents: Sequence[bytes]) -> bytes:
        """Only the kind of a fault leaves: its text may quote private data."""
        try:
            return self._app(task, contents)
        except WorkInterruptedError:
            raise
        except Exception as error:
            _log.exception("the app failed")
            raise GuestRefusedError(pb.REFUSAL_REASON_FAILED, type(error).__name__) from error

    def _task(self, task: pb.Task, plan: FlowerPlan, allowed: AllowedApp) -> GuestTask:
        return GuestTask(
            app=plan.client_app,
            task_id=task.task_id,
            run=task.run_id,
            merchant=self._settings.merchant,
            node_id=task.node_id,
            phase=_PHASES[task.phase],
            node_config=allowed.node_config,
            run_config=plan.config,
            now=self._clock(),
        )

    def _declare(self, task: pb.Task, plan: FlowerPlan, letter: Letter) -> None:
        self._store.declare(
            TaskId(task.task_id),
            app=plan.client_app,
            plan_digest=plan.digest,
            run=RunId(task.run_id),
            round_number=task.round,
            phase=_PHASES[task.phase],
            sha256=letter.digest,
            now=self._clock(),
        )


def _contract(sentence: str) -> GuestRefusedError:
    return GuestRefusedError(pb.REFUSAL_REASON_CONTRACT, sentence)
