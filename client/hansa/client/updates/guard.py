"""What a merchant knows by itself of a release: its plan, its ledger and its contract.

The statement's form and its agreement with the manifest are checked for every site. Only a
merchant whose update is in the model can check more, and it needs nobody's word for that: its
ledger holds what it spent, its shelf the plan, its contract what it agreed to.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hansa.client.ledger_store import read_ledger
from hansa.client.plans import PlanShelf
from hansa.client.site import Site
from hansa.core.contract import Contract
from hansa.core.errors import NotFoundError
from hansa.core.plan import RunPlan
from hansa.core.privacy.entries import Entry
from hansa.core.statement import PrivacyStatement
from hansa.core.statement_rules import check_contract, check_ledger, check_plan, own_part

_log = logging.getLogger(__name__)


class StatementGuard(Protocol):
    """Decides, beyond what the manifest tells, whether a release may be loaded."""

    def check(self, statement: PrivacyStatement, /) -> None:
        """Lets the release pass.

        Raises:
            UntrustedReleaseError: the statement contradicts what this site knows.
            ContractError: the release is outside the merchant's terms.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class OwnBooks:
    """A merchant's own view."""

    merchant: str
    entries: Sequence[Entry]
    contract: Contract
    find_plan: Callable[[str], RunPlan | None]

    def check(self, statement: PrivacyStatement, /) -> None:
        """See ``StatementGuard.check``; a site that gave no update can compare the plan alone."""
        plan = self.find_plan(statement.release.plan_digest)
        if plan is not None:
            check_plan(statement, plan)
        part = own_part(statement, self.entries, self.merchant)
        if part is None:
            _log.info("release %s holds no update of this site", statement.release.version)
            return
        epsilon = check_ledger(statement, self.entries, part)
        check_contract(statement, self.contract)
        _log.info(
            "release %s states epsilon %s; this ledger had spent %.4f",
            statement.release.version,
            statement.claim.epsilon,
            epsilon,
        )


class SiteGuard:
    """The same for a site; its ledger is read when a release is judged, as it is then."""

    def __init__(self, site: Site, merchant: str) -> None:
        self._site = site
        self._merchant = merchant

    def check(self, statement: PrivacyStatement, /) -> None:
        """See ``StatementGuard.check``; before the site has a ledger, there is nothing to compare.

        Raises:
            LedgerError: the book is broken.
        """
        try:
            ledger = read_ledger(self._site.ledger)
        except NotFoundError:
            return
        own = OwnBooks(
            merchant=self._merchant,
            entries=ledger.entries,
            contract=ledger.contract,
            find_plan=PlanShelf(self._site.plans).find,
        )
        own.check(statement)
