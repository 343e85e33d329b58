"""What a run's evidence shows: a list of checks, each passed or failed, with where and why.

The verifier trusts no one. It recomputes every hash, signature and epsilon from the pack alone, the
latter with two accountants that share no code. The rules:

* the plan is signed, and the run followed that very plan;
* each merchant's ledger is whole, in order and signed by its own key;
* every update that entered an aggregate was reserved and committed, byte for byte, for this plan
  and at no less than the plan's cost; or, in a run of a foreign app, declared byte for byte;
* no ledger ever exceeded its cap, and the plan keeps to the terms that each merchant accepted;
* the plan, every ledger entry, cohort, aggregate and release stand in the operator's log under a
  signed checkpoint, and the log goes on from every checkpoint that others have seen;
* the release names this run and this plan, understates no epsilon, and is vouched for by TUF
  metadata from the root down;
* the release's privacy statement agrees with manifest, plan, ledgers and log.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from cryptography import x509
from tuf.api.metadata import Metadata, Root

from hansa.audit.caps import kept_cap
from hansa.audit.contracts import keeps_to_contract
from hansa.audit.declarations import check_declared, name_declared
from hansa.audit.findings import Check, Report, Spend
from hansa.audit.log_checks import LogChecks
from hansa.audit.prv import epsilon_prv
from hansa.audit.release_chain import ReleaseChain, parse_root
from hansa.audit.statement_checks import StatementChecks
from hansa.core.canonical import digest
from hansa.core.errors import AuditFailedError, HansaError
from hansa.core.evidence import PLAN_DOMAIN, Evidence, Release, RoundRecord
from hansa.core.flower_plan import FlowerPlan, parse_any_plan
from hansa.core.identity import Identity, Role, identity_of
from hansa.core.ids import MerchantId, ReleaseVersion, RunId, TaskId, task_id
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import epsilon_pld, epsilon_rdp, round_up
from hansa.core.privacy.entries import Declare, Reserve
from hansa.core.privacy.events import covers
from hansa.core.privacy.ledger import Ledger
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.release import ReleaseManifest, target_path
from hansa.core.transparency.checkpoint import SignedCheckpoint

AGREEMENT: Final = 0.015
"""The two accountants may differ by PRV's error of 0.01 and PLD's grid."""


def verify(
    evidence: Evidence,
    *,
    pinned_root: bytes | None = None,
    plan_key: str | None = None,
    witnessed: Sequence[SignedCheckpoint] = (),
) -> Report:
    """Examines a pack's evidence; never stops at the first fault.

    Args:
        evidence: from ``hansa.core.evidence.read_pack``.
        pinned_root: the TUF root metadata that the auditor trusts.
        plan_key: the operator's public plan key (hexadecimal) that the auditor trusts.
        witnessed: checkpoints of the operator's log that the auditor got from elsewhere.

    Raises:
        InvalidInputError: the pinned root is no root metadata.
    """
    root = None if pinned_root is None else parse_root(pinned_root)
    return _Examination(evidence, root, plan_key, witnessed).report()


class _Examination:
    """One pass over the evidence, collecting checks."""

    def __init__(
        self,
        evidence: Evidence,
        pinned_root: Metadata[Root] | None,
        plan_key: str | None,
        witnessed: Sequence[SignedCheckpoint],
    ) -> None:
        self._evidence = evidence
        self._log = LogChecks(evidence, plan_key=plan_key, witnessed=witnessed)
        self._pinned_root = pinned_root
        self._plan_key = plan_key
        self._checks: list[Check] = []
        self._spends: list[Spend] = []
        self._expires: dict[str, datetime] = {}
        self._plan: RunPlan | None = None
        self._app: FlowerPlan | None = None

    def report(self) -> Report:
        run = self._evidence.run
        self._try("plan is signed", "plan.json", self._examine_plan)
        self._try("rounds are consistent", "run.json", self._examine_rounds)
        for merchant in sorted(self._merchants()):
            self._examine_merchant(MerchantId(merchant))
        release = self._evidence.release
        if release is not None:
            self._examine_release(release)
        self._checks.extend(self._log.run())
        return Report(
            run=run.run,
            plan_digest=run.plan_digest,
            release=None if release is None else _release_name(release),
            root_pinned=self._pinned_root is not None,
            expires=self._expires,
            checkpoint=self._log.checkpoint,
            witnessed=self._log.witnessed,
            checks=tuple(self._checks),
            spends=tuple(self._spends),
        )

    def _try(self, name: str, where: str, examine: Callable[[], str]) -> bool:
        """Runs one check; it returns what it saw, or raises what is wrong."""
        try:
            detail, passed = examine(), True
        except HansaError as error:
            detail, passed = str(error), False
        self._checks.append(Check(name=name, where=where, passed=passed, detail=detail))
        return passed

    def _merchants(self) -> set[str]:
        return (
            self._contributors() | self._evidence.ledgers.keys() | self._evidence.merchants.keys()
        )

    def _contributors(self) -> set[str]:
        return {name for one in self._evidence.run.rounds for name in one.accepted}

    def _examine_plan(self) -> str:
        signed = self._evidence.plan
        plan = parse_any_plan(signed.verify(PLAN_DOMAIN, key_id=self._plan_key), "plan.json")
        if digest(signed.payload) != plan.digest:
            raise AuditFailedError("the signed plan is not in its canonical form")
        if plan.digest != self._evidence.run.plan_digest:
            raise AuditFailedError("run.json names another plan than the one that is signed")
        if isinstance(plan, FlowerPlan):
            self._app = plan
        else:
            self._plan = plan
        trust = "the pinned key" if self._plan_key is not None else f"key {signed.key_id[:12]}"
        return f"signed by {trust}; the run names it"

    def _examine_rounds(self) -> str:
        rounds = self._evidence.run.rounds
        numbers = [one.round for one in rounds]
        if numbers != sorted(set(numbers)):
            raise AuditFailedError("rounds are repeated or out of order")
        for one in rounds:
            _check_round(one, self._quorum())
        self._check_stale_work(rounds)
        return f"{len(rounds)} rounds, {sum(len(one.accepted) for one in rounds)} updates accepted"

    def _quorum(self) -> int:
        if self._app is not None:
            return self._app.quorum
        return 1 if self._plan is None else self._plan.federation.quorum

    def _check_stale_work(self, rounds: Sequence[RoundRecord]) -> None:
        """Work of an earlier round counts once, and only as far back as the plan allows."""
        spec = None if self._plan is None else self._plan.federation.asynchronous
        oldest = 0 if spec is None else spec.max_staleness
        used: set[tuple[str, int]] = set()
        for one in rounds:
            for merchant in one.accepted:
                work = (merchant, one.work_round(merchant))
                if not one.round - oldest <= work[1] <= one.round:
                    raise AuditFailedError(
                        f"round {one.round}: {merchant} began in round {work[1]}, "
                        "which the plan does not allow"
                    )
                if work in used:
                    raise AuditFailedError(
                        f"round {one.round}: the update of {merchant} was used before"
                    )
                used.add(work)

    def _examine_merchant(self, merchant: MerchantId) -> None:
        where = f"ledgers/{merchant}.jsonl"
        self._try("certificate names it", "merchants.json", lambda: self._certificate(merchant))
        books: list[Ledger] = []
        if not self._try("chain is whole", where, lambda: self._load(merchant, books)) or not books:
            return
        ledger = books[0]
        self._try("updates are booked", where, lambda: self._booked(merchant, ledger))
        self._try("cap is kept", where, lambda: kept_cap(ledger.entries, ledger.opening.delta))
        if self._plan is not None:
            plan, run = self._plan, self._evidence.run.run
            self._try("contract is kept", where, lambda: keeps_to_contract(ledger, run, plan))
        self._try("accountants agree", where, lambda: self._recompute(merchant, ledger))
        declared = [one.body for one in ledger.entries if isinstance(one.body, Declare)]
        if declared:
            self._try("releases outside epsilon are named", where, lambda: name_declared(declared))

    def _certificate(self, merchant: MerchantId) -> str:
        record = self._evidence.merchants.get(merchant)
        if record is None:
            raise AuditFailedError(f"{merchant} is missing")
        try:
            certificate = x509.load_pem_x509_certificate(record.certificate_pem.encode())
        except ValueError as error:
            raise AuditFailedError(f"{merchant}: the certificate is malformed") from error
        identity = identity_of(certificate)
        if identity != Identity(role=Role.MERCHANT, name=merchant):
            raise AuditFailedError(f"{merchant}: the certificate is for {identity.uri}")
        return identity.uri

    def _load(self, merchant: MerchantId, into: list[Ledger]) -> str:
        entries = self._evidence.ledgers.get(merchant)
        if entries is None:
            raise AuditFailedError(f"the ledger of {merchant} is missing")
        if not entries and merchant not in self._contributors():
            return "no entry was ever handed over, and no update accepted"
        ledger = Ledger(entries)
        record = self._evidence.merchants.get(merchant)
        if record is None or record.ledger_public_key != ledger.opening.public_key:
            raise AuditFailedError("ledger entry 0: merchants.json names another ledger key")
        into.append(ledger)
        return f"{len(entries)} entries, each signed and in order"

    def _booked(self, merchant: MerchantId, ledger: Ledger) -> str:
        """Every accepted update of the merchant, against its own book."""
        run, count = self._evidence.run, 0
        for one in run.rounds:
            if merchant not in one.accepted:
                continue
            task = task_id(RunId(run.run), one.work_round(merchant), run.phase, merchant)
            if self._app is not None:
                check_declared(ledger, task, one, run, self._app.client_app)
                count += 1
                continue
            self._check_booked(ledger, task, one, one.work_round(merchant))
            if ledger.released(task) != one.accepted[merchant]:
                raise AuditFailedError(
                    f"round {one.round}: the accepted update {one.accepted[merchant][:12]} "
                    "is not the one that was committed"
                )
            count += 1
        how = "reserved and committed" if self._app is None else "declared, epsilon not accounted"
        return f"{count} accepted updates, each {how}"

    def _check_booked(
        self, ledger: Ledger, task: TaskId, one: RoundRecord, work_round: int
    ) -> None:
        body = ledger.reservation(task)
        if body is None:
            raise AuditFailedError(f"round {one.round}: task {task} was never reserved")
        run = self._evidence.run
        if (body.run, body.round, body.phase) != (run.run, work_round, run.phase):
            raise AuditFailedError(f"round {one.round}: the reservation is for other work")
        if body.plan_digest != run.plan_digest:
            raise AuditFailedError(f"round {one.round}: it was reserved for another plan")
        if self._plan is None:
            raise AuditFailedError(f"round {one.round}: there is no valid plan to compare with")
        if not covers(body.events, [PrivacyPlan.of(self._plan).round_event()]):
            raise AuditFailedError(f"round {one.round}: less was reserved than the plan costs")

    def _recompute(self, merchant: MerchantId, ledger: Ledger) -> str:
        spend = self._spend(merchant, ledger)
        self._spends.append(spend)
        gap = abs(spend.epsilon_prv - spend.epsilon_pld)
        if gap > AGREEMENT:
            raise AuditFailedError(f"PLD and PRV differ by {gap:.4f}, more than {AGREEMENT}")
        if max(spend.epsilon_pld, spend.epsilon_prv) > spend.epsilon_rdp + AGREEMENT:
            raise AuditFailedError(f"the Renyi bound of {spend.epsilon_rdp:.4f} is below them")
        return f"PLD {spend.epsilon_pld:.4f}, PRV {spend.epsilon_prv:.4f}"

    def _spend(self, merchant: MerchantId, ledger: Ledger) -> Spend:
        delta = ledger.opening.delta
        reservations = [e.body for e in ledger.entries if isinstance(e.body, Reserve)]
        own = [body for body in reservations if body.run == self._evidence.run.run]
        run_delta = delta if self._plan is None else self._plan.privacy.delta
        return Spend(
            merchant=merchant,
            cap_epsilon=ledger.cap_epsilon,
            delta=delta,
            epsilon_pld=ledger.spent_epsilon(),
            epsilon_prv=epsilon_prv(ledger.events, delta),
            epsilon_rdp=epsilon_rdp(ledger.events, delta),
            run_epsilon=epsilon_pld([e for body in own for e in body.events], run_delta),
            reservations=len(reservations),
            commits=sum(e.body.kind == "commit" for e in ledger.entries),
            declared=sum(e.body.kind == "declare" for e in ledger.entries),
        )

    def _examine_release(self, release: Release) -> None:
        where = "release/manifest.json"
        manifests: list[ReleaseManifest] = []
        if not self._try("manifest is valid", where, lambda: _parse(release, manifests)):
            return
        manifest = manifests[0]
        self._try("manifest names the run", where, lambda: self._provenance(manifest))
        self._try("epsilon is not understated", where, lambda: self._stated_epsilon(manifest))
        self._try("TUF vouches for it", "release/metadata", lambda: self._vouched(manifest))
        self._checks.extend(StatementChecks(self._evidence, manifest, self._plan).run())

    def _provenance(self, manifest: ReleaseManifest) -> str:
        run = self._evidence.run
        if manifest.run != run.run or manifest.plan_digest != run.plan_digest:
            raise AuditFailedError("the manifest names another run or plan")
        finished = {one.round for one in run.rounds if one.aggregate_sha256 is not None}
        foreign = sorted(set(manifest.rounds) - finished)
        if foreign:
            raise AuditFailedError(
                f"the manifest claims round {foreign[0]}, which made no aggregate"
            )
        if self._plan is None or manifest.unit != self._plan.privacy.unit:
            raise AuditFailedError("the manifest states another unit of privacy than the plan")
        return f"run {run.run}, rounds {manifest.rounds[0]} to {manifest.rounds[-1]}"

    def _stated_epsilon(self, manifest: ReleaseManifest) -> str:
        if self._plan is None or manifest.delta > self._plan.privacy.delta:
            raise AuditFailedError("the manifest states a weaker delta than the plan's")
        missing = self._contributors() - {spend.merchant for spend in self._spends}
        if missing:
            raise AuditFailedError(f"the epsilon of {min(missing)} cannot be recomputed")
        true = max((spend.run_epsilon for spend in self._spends), default=0.0)
        if Decimal(manifest.epsilon) < Decimal(true):
            raise AuditFailedError(
                f"the manifest states epsilon {manifest.epsilon}, but it is {round_up(true)}"
            )
        return f"states {manifest.epsilon}, recomputed {true:.4f}"

    def _vouched(self, manifest: ReleaseManifest) -> str:
        release = self._evidence.release
        metadata = {} if release is None else release.metadata
        chain = ReleaseChain(metadata, pinned_root=self._pinned_root)
        path = target_path(manifest.channel, ReleaseVersion(manifest.version), "manifest.json")
        chain.check_target(manifest.channel, path, manifest.to_bytes())
        self._expires.update(chain.expires)
        trust = "the pinned root" if self._pinned_root is not None else "the pack's own root"
        return f"{path} is signed, from {trust} on (root version {chain.root_version})"


def _check_round(one: RoundRecord, quorum: int) -> None:
    if not one.accepted.keys() <= set(one.cohort):
        raise AuditFailedError(f"round {one.round}: an update came from outside the cohort")
    if one.accepted.keys() & one.refused.keys():
        raise AuditFailedError(f"round {one.round}: an update is both accepted and refused")
    if one.aggregate_sha256 is not None and len(one.accepted) < quorum:
        raise AuditFailedError(f"round {one.round}: fewer updates than the plan's quorum")


def _parse(release: Release, into: list[ReleaseManifest]) -> str:
    into.append(ReleaseManifest.parse(release.manifest))
    return _release_name(release) or ""


def _release_name(release: Release) -> str | None:
    try:
        manifest = ReleaseManifest.parse(release.manifest)
    except HansaError:
        return None
    return f"{manifest.channel} {manifest.version}"
