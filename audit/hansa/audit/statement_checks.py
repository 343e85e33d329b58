"""Whether a release's privacy statement says what the evidence shows.

The manifest names the statement's digest, and TUF vouches for the manifest; so what is judged here
is its content: against the manifest, the signed plan, each contributor's ledger, and the log.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Final

from hansa.audit.findings import Check
from hansa.audit.log_view import LogView
from hansa.audit.prv import epsilon_prv
from hansa.core.errors import AuditFailedError, HansaError
from hansa.core.evidence import STATEMENT, Evidence
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import round_up
from hansa.core.privacy.events import RepeatAndSelect
from hansa.core.privacy.ledger import Ledger
from hansa.core.release import ReleaseManifest
from hansa.core.statement import STATEMENT_NAME, Contributor, PrivacyStatement, member_digest
from hansa.core.statement_rules import booked_for, check_ledger, check_plan, read_statement
from hansa.core.transparency.leaves import CodeLeaf

PRV_ERROR: Final = 0.015
"""The auditor's own accountant may lie so far above the reference."""

_NAMES: Final = (
    "statement is the manifest's",
    "statement agrees with the plan",
    "statement names the contributors",
    "statement understates nothing",
    "statement's code is in the log",
    "empirical audit follows from its counts",
)
_ABSENT: Final = "the release has no privacy statement: it was made before there were any"
_NOT_RUN: Final = "the empirical audit was not run: nobody attacked this plan's training"
_NO_LOG: Final = "the pack holds no log"


class _AbsentError(Exception):
    """There is nothing to examine."""


class StatementChecks:
    """The checks of one release's statement."""

    def __init__(self, evidence: Evidence, manifest: ReleaseManifest, plan: RunPlan | None) -> None:
        """Takes a pack, its release's manifest and its plan, if that was valid."""
        self._evidence = evidence
        self._manifest = manifest
        self._plan = plan
        self._checks: list[Check] = []
        self.statement: PrivacyStatement | None = None

    def run(self) -> list[Check]:
        """All checks in order; those of a release without a statement are absent, not passed."""
        release = self._evidence.release
        data = None if release is None else release.statement
        if data is None and STATEMENT_NAME not in self._manifest.files:
            return [
                Check(name=name, where=STATEMENT, passed=False, absent=True, detail=_ABSENT)
                for name in _NAMES
            ]
        if not self._try(_NAMES[0], lambda: self._read(data)) or self.statement is None:
            return self._checks
        statement = self.statement
        self._try(_NAMES[1], lambda: self._plans(statement))
        self._try(_NAMES[2], lambda: self._contributors(statement))
        self._try(_NAMES[3], lambda: self._epsilon(statement))
        self._try(_NAMES[4], lambda: self._code(statement))
        self._try(_NAMES[5], lambda: _empirical(statement))
        return self._checks

    def _try(self, name: str, examine: Callable[[], str]) -> bool:
        passed = absent = False
        try:
            detail, passed = examine(), True
        except _AbsentError as nothing:
            detail, absent = str(nothing), True
        except HansaError as error:
            detail = str(error)
        check = Check(name=name, where=STATEMENT, passed=passed, absent=absent, detail=detail)
        self._checks.append(check)
        return passed

    def _read(self, data: bytes | None) -> str:
        if data is None:
            raise AuditFailedError("the manifest names a privacy statement, and the pack lacks it")
        self.statement = read_statement(self._manifest, data)
        claim = self.statement.claim
        return f"epsilon {claim.epsilon} at delta {claim.delta:g} for each {claim.unit}"

    def _plans(self, statement: PrivacyStatement) -> str:
        if self._plan is None:
            raise AuditFailedError("there is no valid plan to compare with")
        check_plan(statement, self._plan)
        return f"mechanism and scope are those of plan {self._plan.digest[:12]}"

    def _contributors(self, statement: PrivacyStatement) -> str:
        """They are those whose updates are in the rounds of the model, by their ledgers' ids."""
        rounds = set(self._manifest.rounds)
        used = [one for one in self._evidence.run.rounds if one.round in rounds]
        names = {name for one in used for name in one.accepted}
        known = {self._member(name) for name in names}
        stated = {one.member for one in statement.contributors}
        if stated != known:
            raise AuditFailedError(
                f"it names {len(stated)} contributors, of whom {len(stated & known)} are among the "
                f"{len(known)} with an update in the model"
            )
        return f"{len(known)} contributors, each by the digest of its ledger's id"

    def _member(self, merchant: str) -> str:
        ledger = self._ledger(merchant)
        return member_digest(ledger.opening.dataset_id, self._evidence.run.run, merchant)

    def _ledger(self, merchant: str) -> Ledger:
        entries = self._evidence.ledgers.get(merchant)
        if not entries:
            raise AuditFailedError(f"the ledger of {merchant} is missing")
        return Ledger(entries)

    def _epsilon(self, statement: PrivacyStatement) -> str:
        by_member = {one.member: one for one in statement.contributors}
        worst = 0.0
        for merchant in sorted(name for name, own in self._evidence.ledgers.items() if own):
            part = by_member.get(self._member(merchant))
            if part is not None:
                worst = max(worst, self._recomputed(statement, merchant, part))
        return f"states {statement.claim.epsilon}, recomputed {worst:.4f}"

    def _recomputed(self, statement: PrivacyStatement, merchant: str, part: Contributor) -> float:
        ledger, claim = self._ledger(merchant), statement.claim
        try:
            true = check_ledger(statement, ledger.entries, part)
        except HansaError as error:
            raise AuditFailedError(f"{merchant}: {error}") from error
        booked = booked_for(ledger.entries, statement.release.run, part.ledger_head)
        if any(isinstance(event, RepeatAndSelect) for event in booked):
            return true
        prv = epsilon_prv(tuple(booked), claim.delta)
        if Decimal(claim.epsilon) + Decimal(str(PRV_ERROR)) < Decimal(prv):
            raise AuditFailedError(
                f"{merchant}: by the auditor's own accountant epsilon is {round_up(prv)}"
            )
        return true

    def _code(self, statement: PrivacyStatement) -> str:
        if self._evidence.log is None:
            raise _AbsentError(_NO_LOG)
        view = LogView.of(self._evidence.log, key_id=None)
        digest = statement.code.server_sha256
        stated = [one for one in view.leaves if isinstance(one, CodeLeaf)]
        if not stated:
            raise _AbsentError("the log states no code")
        if not any(one.role == "server" and one.code_digest == digest for one in stated):
            raise AuditFailedError(f"the log holds no server with the code {digest[:12]}")
        return f"code {digest[:12]} of {statement.code.software}"


def _empirical(statement: PrivacyStatement) -> str:
    result = statement.empirical
    if result is None:
        raise _AbsentError(_NOT_RUN)
    wrong = result.wrong_bounds()
    if wrong:
        raise AuditFailedError(f"the bound of experiment {wrong[0] + 1} is not that of its counts")
    return (
        f"shows at least epsilon {result.lower_bound:.3f} where {result.claimed_epsilon:.3f} is "
        f"claimed, with confidence {result.confidence:g}"
    )
