"""Turns a plan into a queued run: checked, signed, named and noted."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hansa.core.errors import InvalidInputError
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.flower_plan import AnyPlan, FlowerPlan
from hansa.core.ids import RunId
from hansa.core.plan import RunPlan
from hansa.core.signing import sign
from hansa.server.rounds.app_run import check_app_allowed
from hansa.server.rounds.strategies import make_strategy
from hansa.server.settings import ServerSettings
from hansa.server.state.journal import Journal
from hansa.server.state.runs import Along, Runs
from hansa.server.switchboard import Switchboard


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Whoever starts a run, the operator's call or a schedule, starts it here."""

    settings: ServerSettings
    plan_key: Ed25519PrivateKey
    runs: Runs
    journal: Journal
    switchboard: Switchboard
    allowed_apps: Callable[[], Collection[str]] = tuple
    """The operator's list of foreign strategies and apps, as it is now."""

    def launch(self, plan: AnyPlan, *, why: str, along: Along | None = None) -> RunId:
        """Queues the plan; returns the run's name.

        Args:
            plan: what is to be run.
            why: who asked for it, for the journal.
            along: what is written in the transaction that queues the run; what it raises, this
                raises, and nothing is queued.

        Raises:
            InvalidInputError: this server lacks what the plan needs, or the plan's strategy cannot
                be made of its options.
            UnauthorisedError: the operator's list does not name the plan's app or strategy.
        """
        if isinstance(plan, FlowerPlan):
            check_app_allowed(plan, self.allowed_apps())
        else:
            self._check_run_plan(plan)
        signed = sign(plan.model_dump(mode="json"), self.plan_key, domain=PLAN_DOMAIN)
        run_id = self.runs.queue_next(plan, signed.to_bytes(), along)
        self.journal.note("run queued", run=run_id, plan=plan.digest, why=why)
        self.switchboard.announce()
        return run_id

    def _check_run_plan(self, plan: RunPlan) -> None:
        if plan.model.base not in self.settings.base_models:
            known = ", ".join(self.settings.base_models)
            raise InvalidInputError(
                f"this server has no base model {plan.model.base!r}; it has: {known}"
            )
        make_strategy(plan.federation, self.allowed_apps())
