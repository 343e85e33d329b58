"""What the verifier found: checks, each with where and why, and what every merchant has spent."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from hansa.core.errors import AuditFailedError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Check(_Part):
    """One rule, examined at one place."""

    name: str
    where: str
    passed: bool
    detail: str
    absent: bool = False
    """Whether the pack holds nothing that could be examined: then it neither passed nor failed."""


class Spend(_Part):
    """What one merchant's shoppers have paid, rounded nowhere."""

    merchant: str
    cap_epsilon: float
    delta: float
    epsilon_pld: float
    """Of everything in the ledger, by the reference accountant."""
    epsilon_prv: float
    """The same by the auditor's own accountant."""
    epsilon_rdp: float
    """The same by the coarse Renyi bound."""
    run_epsilon: float
    """Of this run alone, at the plan's delta, by the reference accountant."""
    reservations: int
    commits: int
    declared: int
    """Releases of foreign apps, under the merchant's own responsibility; no epsilon counts them."""


class Report(_Part):
    """What the verifier found."""

    run: str
    plan_digest: str
    release: str | None
    """Channel and version, if the run released anything."""
    root_pinned: bool
    """Whether the auditor supplied the root; otherwise the pack's own root was taken."""
    expires: dict[str, datetime]
    """When the release's metadata expires, by role; not enforced."""
    checkpoint: str | None = None
    """The log's checkpoint under which the pack stands; absent: the pack holds no log."""
    witnessed: int = 0
    """How many checkpoints from elsewhere the log was compared with."""
    checks: tuple[Check, ...]
    spends: tuple[Spend, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed that could be made."""
        return all(check.passed or check.absent for check in self.checks)

    def require(self) -> None:
        """Insists on success.

        Raises:
            AuditFailedError: a check failed; the sentence names the first one and its place.
        """
        for check in self.checks:
            if not check.passed and not check.absent:
                raise AuditFailedError(f"{check.where}: {check.name}: {check.detail}")
