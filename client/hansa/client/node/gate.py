"""What stands between a task and the shop's data: the contract that the merchant accepted.

The server's word counts for nothing here. The terms come from the merchant's own ledger, the time
from this machine's clock, the code from this installation. A task that was answered before is sent
again whatever the terms say now: it left under the old ones.
"""

import datetime as dt
from collections.abc import Callable
from typing import Final

from hansa.client.ledger_store import LedgerStore
from hansa.client.node.refusals import Refused
from hansa.core.code_identity import installed_code
from hansa.core.contract_rules import check_code, check_down, check_hours, check_plan, check_up
from hansa.core.errors import ContractError, LedgerError
from hansa.core.flower_plan import AnyPlan, FlowerPlan
from hansa.core.ids import RunId, Sha256
from hansa.core.privacy.ledger import Ledger
from hansa.core.privacy.spending import plan_name
from hansa.protos.v1 import federation_pb2 as pb

WRONG_CLOCK: Final = dt.timedelta(days=1)
"""A clock that differs from the server's by more cannot say which month it is."""

_HALF_WAY: Final = frozenset({pb.PHASE_SHARES, pb.PHASE_SURVIVORS, pb.PHASE_UNMASK})
"""Stages of a secure round that began within the hours: the others wait for their end."""

Clock = Callable[[], dt.datetime]


class ContractGate:
    """Decides whether a task may begin; every refusal names the term and the values."""

    def __init__(
        self,
        store: LedgerStore,
        clock: Clock,
        code: Callable[[], Sha256] = installed_code,
    ) -> None:
        """Takes the book that holds the terms, this machine's clock and this code's digest."""
        self._store = store
        self._clock = clock
        self._code = code
        self._ahead = dt.timedelta()

    def set_clock_error(self, ahead: dt.timedelta) -> None:
        """Notes how far this machine's clock is ahead of the server's."""
        self._ahead = ahead

    def check_task(self, task: pb.Task, plan: AnyPlan) -> None:
        """Lets only a task pass that is within the terms; called before anything is fetched.

        Args:
            task: as it came.
            plan: its plan, whose signature was checked.

        Raises:
            Refused: it is outside; nothing was fetched, spent or touched.
        """
        try:
            self._check(task, plan)
        except (ContractError, LedgerError) as error:
            raise Refused(pb.REFUSAL_REASON_CONTRACT, str(error)) from error

    def check_answer(self, size_bytes: int) -> None:
        """Bounds what leaves.

        Raises:
            Refused: the answer is larger than the terms allow.
        """
        try:
            check_up(self._store.ledger.contract, size_bytes)
        except ContractError as error:
            raise Refused(pb.REFUSAL_REASON_CONTRACT, str(error)) from error

    def _check(self, task: pb.Task, plan: AnyPlan) -> None:
        ledger, now = self._store.ledger, self._clock()
        self._check_clock(ledger, now)
        _check_run(task, plan, ledger)
        check_code(ledger.contract, self._code())
        if task.phase not in _HALF_WAY:
            check_hours(ledger.contract, now)
        check_down(ledger.contract, _bytes_down(task))
        if not isinstance(plan, FlowerPlan):
            opening = ledger.opening
            check_plan(ledger.contract, plan, unit=opening.unit, delta=opening.delta)

    def _check_clock(self, ledger: Ledger, now: dt.datetime) -> None:
        """A clock that is clearly wrong would open months at will, before or after their time."""
        ledger.check_clock(now)
        if abs(self._ahead) > WRONG_CLOCK:
            raise ContractError(
                f"this machine's clock says {now.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC, the "
                "server's is more than a day off: set the one that is wrong right, and start again"
            )


def _check_run(task: pb.Task, plan: AnyPlan, ledger: Ledger) -> None:
    """A run has one plan: its first task's, whose name its own name begins with.

    So a plan that was signed for another run, or once, cannot stand for this run's.
    """
    if plan_name(task.run_id) != plan.name:
        raise ContractError(
            f"the plan is {plan.name!r}, which is not that of run {task.run_id!r}: a run is called "
            "by its plan's name"
        )
    known = ledger.plan_of(RunId(task.run_id))
    if known is not None and known != plan.digest:
        raise ContractError(
            f"run {task.run_id} began with the plan {known[:16]}, and the task brings "
            f"{plan.digest[:16]}: a run keeps its plan"
        )


def _bytes_down(task: pb.Task) -> int:
    named = task.content.size_bytes + task.context.size_bytes
    return int(named) + len(task.settings) + len(task.signed_plan)
