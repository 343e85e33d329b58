"""Whether a pack's evidence stands in the operator's transparency log, whole and unchanged.

The operator holds the key of plans, packs and checkpoints, so its signature proves only that it
cannot deny what it showed. What it may not change unseen follows from the others: ledger entries
carry the merchants' signatures, and the log's root was seen by merchants and auditors before. So
the whole log is in the pack: the root is computed from the leaves, and so is every earlier root.
"""

from collections.abc import Callable, Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hansa.audit.findings import Check
from hansa.audit.log_view import LogView
from hansa.core.canonical import sha256_hex
from hansa.core.errors import AuditFailedError, HansaError
from hansa.core.evidence import CHECKPOINT, LEAVES, MERCHANTS, PLAN, RUN, Evidence, RoundRecord
from hansa.core.transparency.checkpoint import SignedCheckpoint
from hansa.core.transparency.leaves import CohortLeaf, instant, sentences_digest

_ABSENT: Final = "the pack holds no log: it was made by a server that kept none, or stripped of it"
_NAMES: Final = (
    "checkpoint is signed",
    "log has the signed root",
    "ledgers are in the log",
    "run is in the log",
    "rounds are in the log",
    "memberships are in the log",
    "release is in the log",
    "log goes on from what others saw",
)
_REASON_END: Final = ": "


class LogChecks:
    """The checks of one pack against its log, and of its log against other people's checkpoints."""

    def __init__(
        self,
        evidence: Evidence,
        *,
        plan_key: str | None,
        witnessed: Sequence[SignedCheckpoint],
    ) -> None:
        """Takes the pack; without ``plan_key`` the log must be signed by the plan's key."""
        self._evidence = evidence
        self._key = plan_key or evidence.plan.key_id
        self._others = witnessed
        self._view: LogView | None = None
        self._checks: list[Check] = []

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint in words, once it was verified."""
        return None if self._view is None else str(self._view.checkpoint)

    @property
    def witnessed(self) -> int:
        """How many other checkpoints the log was compared with."""
        return len(self._others) if self._view is not None else 0

    def run(self) -> list[Check]:
        """All checks in order; what cannot be examined is absent, not passed."""
        if self._evidence.log is None:
            return self._absent()
        if not self._try(_NAMES[0], CHECKPOINT, self._open):
            return self._checks
        self._try(_NAMES[1], LEAVES, self._root)
        for merchant in sorted(self._evidence.ledgers):
            where = f"ledgers/{merchant}.jsonl"
            self._try(_NAMES[2], where, lambda name=merchant: self._entries(name))  # type: ignore[misc]
        self._try(_NAMES[3], PLAN, self._run_facts)
        self._try(_NAMES[4], RUN, self._rounds)
        self._try(_NAMES[5], MERCHANTS, self._members)
        if self._evidence.release is not None:
            self._try(_NAMES[6], "release/manifest.json", self._release)
        if self._others:
            self._try(_NAMES[7], LEAVES, self._extends)
        return self._checks

    def _absent(self) -> list[Check]:
        """Checkpoints from elsewhere show that there is a log, so a pack without one fails."""
        if self._others:
            detail = "the pack holds no log, but others have seen one"
            return [Check(name=_NAMES[7], where=LEAVES, passed=False, detail=detail)]
        return [
            Check(name=name, where=LEAVES, passed=False, absent=True, detail=_ABSENT)
            for name in _NAMES[:-1]
        ]

    def _try(self, name: str, where: str, examine: Callable[[], str]) -> bool:
        try:
            detail, passed = examine(), True
        except HansaError as error:
            detail, passed = str(error), False
        self._checks.append(Check(name=name, where=where, passed=passed, detail=detail))
        return passed

    def _open(self) -> str:
        log = self._evidence.log
        if log is None:
            raise AuditFailedError(_ABSENT)
        self._view = LogView.of(log, key_id=self._key)
        return f"{self._view.checkpoint}, by key {self._key[:12]}"

    @property
    def _log(self) -> LogView:
        if self._view is None:
            raise AuditFailedError("the log could not be read")
        return self._view

    def _root(self) -> str:
        self._log.check_root()
        return f"{len(self._log.leaves)} leaves have the root that was signed"

    def _entries(self, merchant: str) -> str:
        """Entry by entry, and none of the log's left out of the ledger."""
        held = self._evidence.ledgers[merchant]
        logged = self._log.entries(merchant)
        for entry in held:
            known = logged.get(entry.position)
            if known is None:
                raise AuditFailedError(f"ledger entry {entry.position}: it is not in the log")
            if known.hash_ != entry.hash:
                raise AuditFailedError(
                    f"ledger entry {entry.position}: the log holds another one at log entry "
                    f"{self._log.place_of(known)}"
                )
        if len(logged) > len(held):
            raise AuditFailedError(
                f"ledger entry {len(held)}: the log holds it, and the ledger ends before it"
            )
        return f"{len(held)} entries, each in the log"

    def _run_facts(self) -> str:
        run = self._evidence.run
        plan = self._log.plan(run.run)
        if plan is None:
            raise AuditFailedError(f"log: run {run.run} was never logged")
        if (plan.plan_digest, plan.started) != (run.plan_digest, instant(run.started)):
            raise AuditFailedError("the log states another plan or beginning of the run")
        end = self._log.end(run.run)
        finished = None if end is None else end.finished
        if run.finished is not None and finished != instant(run.finished):
            raise AuditFailedError("the log states another end of the run")
        if run.finished is None and end is not None:
            raise AuditFailedError("the run has ended by the log, and goes on by run.json")
        return f"log entry {self._log.place_of(plan)}"

    def _rounds(self) -> str:
        """Each round of the run is in the log as it is here, and none of the log's is left out."""
        run = self._evidence.run
        logged = self._log.rounds(run.run)
        for one in run.rounds:
            if one.round not in logged:
                raise AuditFailedError(f"round {one.round}: it is not in the log")
            self._check_round(one)
        missing = logged.keys() - {one.round for one in run.rounds}
        if missing:
            raise AuditFailedError(
                f"round {min(missing)}: the log holds it, and run.json leaves it out"
            )
        return f"{len(run.rounds)} rounds: cohorts, refusals and aggregates"

    def _check_round(self, one: RoundRecord) -> None:
        aggregate, cohort = self._log.rounds(self._evidence.run.run)[one.round]
        if aggregate.inputs != one.accepted or aggregate.began != one.began:
            raise AuditFailedError(
                f"round {one.round}: other updates went into the aggregate by log entry "
                f"{self._log.place_of(aggregate)}"
            )
        if aggregate.output != one.aggregate_sha256:
            raise AuditFailedError(
                f"round {one.round}: another aggregate came of it by log entry "
                f"{self._log.place_of(aggregate)}"
            )
        if cohort is None or not _is_cohort(cohort, one):
            raise AuditFailedError(
                f"round {one.round}: the log states other merchants or other refusals"
            )

    def _members(self) -> str:
        for name, record in sorted(self._evidence.merchants.items()):
            certificate = _der_of(record.certificate_pem, name)
            known = self._log.members(name)
            if sha256_hex(certificate) not in {one.certificate_sha256 for one in known}:
                raise AuditFailedError(f"{name}: its certificate is not in the log")
            keys = {one.ledger_key for one in known} - {None}
            if keys != {record.ledger_public_key}:
                raise AuditFailedError(f"{name}: the log states another ledger key")
        return f"{len(self._evidence.merchants)} members with their certificates and ledger keys"

    def _release(self) -> str:
        release = self._evidence.release
        sha = None if release is None else sha256_hex(release.manifest)
        leaf = self._log.release(sha or "")
        if leaf is None:
            raise AuditFailedError("the manifest is not in the log")
        if leaf.run != self._evidence.run.run:
            raise AuditFailedError("the log says that the release came of another run")
        return f"log entry {self._log.place_of(leaf)}"

    def _extends(self) -> str:
        for other in sorted(self._others, key=lambda one: one.checkpoint.size):
            self._log.check_extends(other.verify(key_id=self._key))
        return f"{len(self._others)} checkpoints of others, the log begins with each"


def _is_cohort(cohort: CohortLeaf, one: RoundRecord) -> bool:
    reasons = {name: why.partition(_REASON_END)[0] for name, why in one.refused.items()}
    return (
        cohort.asked == one.cohort
        and cohort.refused == reasons
        and cohort.sentences_sha256 == sentences_digest(dict(one.refused))
    )


def _der_of(pem: str, merchant: str) -> bytes:
    """The certificate's bytes; its text must be spelt as it is always spelt."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise AuditFailedError(f"{merchant}: the certificate is malformed") from error
    if certificate.public_bytes(Encoding.PEM) != pem.encode():
        raise AuditFailedError(f"{merchant}: the certificate's text was edited")
    return certificate.public_bytes(Encoding.DER)
