"""Everything that a report says, gathered from a pack and from what the verifier found in it.

Texts in words are not here: see ``texts_en`` and ``texts_zh``. This is also the report's JSON.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from importlib.metadata import version
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hansa.audit.findings import Check, Report, Spend
from hansa.audit.report.plain import Meaning, meaning_of
from hansa.core.errors import HansaError
from hansa.core.evidence import Evidence
from hansa.core.flower_plan import parse_any_plan
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import accountants, round_up
from hansa.core.privacy.entries import Accept, Commit, Declare, Entry, RaiseCap, Refuse, Reserve
from hansa.core.privacy.entries import Release as Refund
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.release import ReleaseManifest
from hansa.core.statement import Mechanism, PrivacyStatement, covered, not_protected
from hansa.core.transparency.leaves import CodeLeaf, UnknownLeaf, parse_leaf

SHOPS = (1, 2, 3)
"""At so many merchants a shopper may be known: the report says what that costs it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Happening(_Part):
    """One thing that a reader should know of."""

    kind: str
    """See the texts ``incident.KIND``."""
    who: str = ""
    where: str = ""
    detail: str = ""


class MerchantRow(_Part):
    """One merchant's privacy, from its own signed ledger."""

    merchant: str
    cap: str
    delta: float
    pld: str
    prv: str
    rdp: str
    this_run: str
    reserved: int
    committed: int
    declared: int
    rounds: int
    """In so many of the run's aggregates it has an update."""
    contract: str
    """Digest of the terms in force, first figures; empty: none was accepted."""


class Software(_Part):
    """Code that somebody says it runs."""

    role: str
    software: str
    digest: str


class Dossier(_Part):
    """The content of one report."""

    form: Annotated[int, Field(ge=1)] = 1
    tool: str
    made: datetime
    pack_sha256: str
    passed: bool
    first_fault: str | None
    """Place, rule and sentence of the first failed check; absent: none failed."""
    run: str | None = None
    plan_name: str | None = None
    plan_digest: str | None = None
    plan_key: str | None = None
    plan_key_pinned: bool = False
    root_pinned: bool = False
    checkpoint: str | None = None
    witnessed: int = 0
    started: datetime | None = None
    finished: datetime | None = None
    first_entry: str | None = None
    last_entry: str | None = None
    rounds: int = 0
    aggregated: int = 0
    manifest: dict[str, Any] | None = None
    statement: dict[str, Any] | None = None
    epsilon: str | None = None
    """The release's; without a release the largest over the merchants, rounded up."""
    delta: float | None = None
    unit: str | None = None
    meaning: Meaning | None = None
    many_shops: dict[str, str] = {}
    """Merchants of one shopper to its epsilon together, for the whole plan."""
    mechanism: dict[str, Any] | None = None
    covers: tuple[str, ...] = ()
    not_protected: tuple[str, ...] = ()
    accountants: dict[str, str] = {}
    code: tuple[Software, ...] = ()
    merchants: tuple[MerchantRow, ...] = ()
    incidents: tuple[Happening, ...] = ()
    checks: tuple[Check, ...] = ()


def unreadable(error: HansaError, *, pack_sha256: str, now: datetime) -> Dossier:
    """The report on a pack that does not even open."""
    fault = f"{type(error).__name__}: {error}"
    return Dossier(tool=_tool(), made=now, pack_sha256=pack_sha256, passed=False, first_fault=fault)


def dossier_of(
    evidence: Evidence,
    report: Report,
    *,
    pack_sha256: str,
    plan_key_pinned: bool,
    now: datetime,
) -> Dossier:
    """Gathers the facts of a pack that opened, whether or not it passed."""
    plan, statement = _plan(evidence), _statement(evidence)
    facts: dict[str, Any] = {
        **_run_facts(evidence),
        **_claim(evidence, report, plan),
        "tool": _tool(),
        "made": now,
        "pack_sha256": pack_sha256,
        "passed": report.passed,
        "first_fault": _first_fault(report.checks),
        "plan_key_pinned": plan_key_pinned,
        "root_pinned": report.root_pinned,
        "checkpoint": report.checkpoint,
        "witnessed": report.witnessed,
        "statement": None if statement is None else statement.model_dump(mode="json"),
        "accountants": {**accountants(), "hansa-prv": version("hansa")},
        "code": tuple(_code(evidence, statement)),
        "merchants": tuple(_row(one, evidence) for one in report.spends),
        "incidents": tuple(_incidents(evidence, report)),
        "checks": report.checks,
    }
    return Dossier(**facts)


def _tool() -> str:
    return f"hansa-audit {version('hansa')}"


def _first_fault(checks: Iterable[Check]) -> str | None:
    return next(
        (
            f"{one.where}: {one.name}: {one.detail}"
            for one in checks
            if not one.passed and not one.absent
        ),
        None,
    )


def _plan(evidence: Evidence) -> RunPlan | None:
    try:
        plan = parse_any_plan(evidence.plan.payload, "plan.json")
    except HansaError:
        return None
    return plan if isinstance(plan, RunPlan) else None


def _manifest(evidence: Evidence) -> ReleaseManifest | None:
    try:
        release = evidence.release
        return None if release is None else ReleaseManifest.parse(release.manifest)
    except HansaError:
        return None


def _statement(evidence: Evidence) -> PrivacyStatement | None:
    data = None if evidence.release is None else evidence.release.statement
    try:
        return None if data is None else PrivacyStatement.parse(data)
    except HansaError:
        return None


def _run_facts(evidence: Evidence) -> dict[str, Any]:
    run = evidence.run
    times = [entry.time for own in evidence.ledgers.values() for entry in own]
    return {
        "run": run.run,
        "plan_name": str(evidence.plan.payload.get("name", "")),
        "plan_digest": run.plan_digest,
        "plan_key": evidence.plan.key_id,
        "started": run.started,
        "finished": run.finished,
        "first_entry": min(times, default=None),
        "last_entry": max(times, default=None),
        "rounds": len(run.rounds),
        "aggregated": sum(one.aggregate_sha256 is not None for one in run.rounds),
    }


def _claim(evidence: Evidence, report: Report, plan: RunPlan | None) -> dict[str, Any]:
    manifest = _manifest(evidence)
    if plan is None:
        return {"manifest": None if manifest is None else manifest.model_dump(mode="json")}
    spent = max((one.run_epsilon for one in report.spends), default=None)
    worst = None if spent is None else str(round_up(spent))
    epsilon = worst if manifest is None else manifest.epsilon
    delta = plan.privacy.delta if manifest is None else manifest.delta
    return {
        "manifest": None if manifest is None else manifest.model_dump(mode="json"),
        "epsilon": epsilon,
        "delta": delta,
        "unit": plan.privacy.unit,
        "meaning": None if epsilon is None else meaning_of(float(epsilon), delta),
        "many_shops": _many_shops(plan),
        "mechanism": Mechanism.of(plan).model_dump(mode="json"),
        "covers": covered(plan),
        "not_protected": not_protected(plan),
    }


def _many_shops(plan: RunPlan) -> dict[str, str]:
    """The whole plan's cost for a shopper of several merchants, as the plan check states it."""
    privacy = PrivacyPlan.of(plan)
    try:
        return {
            str(shops): str(round_up(privacy.shopper_epsilon(merchants=shops))) for shops in SHOPS
        }
    except HansaError:
        return {}


def _row(spend: Spend, evidence: Evidence) -> MerchantRow:
    terms = [
        one.body.contract.digest
        for one in evidence.ledgers[spend.merchant]
        if isinstance(one.body, Accept)
    ]
    return MerchantRow(
        merchant=spend.merchant,
        cap=f"{spend.cap_epsilon:g}",
        delta=spend.delta,
        pld=str(round_up(spend.epsilon_pld)),
        prv=str(round_up(spend.epsilon_prv)),
        rdp=str(round_up(spend.epsilon_rdp)),
        this_run=str(round_up(spend.run_epsilon)),
        reserved=spend.reservations,
        committed=spend.commits,
        declared=spend.declared,
        rounds=sum(spend.merchant in one.accepted for one in evidence.run.rounds),
        contract=terms[-1][:12] if terms else "",
    )


def _code(evidence: Evidence, statement: PrivacyStatement | None) -> Iterable[Software]:
    found = {}
    if statement is not None:
        facts = statement.code
        found["server", facts.software, facts.server_sha256] = True
    for leaf in [] if evidence.log is None else evidence.log.leaves:
        try:
            fact = parse_leaf(leaf, "a log entry")
        except HansaError:
            continue
        if isinstance(fact, CodeLeaf) and not isinstance(fact, UnknownLeaf):
            found[fact.role, fact.software, fact.code_digest] = True
    return [Software(role=role, software=name, digest=sha) for role, name, sha in found]


def _incidents(evidence: Evidence, report: Report) -> Iterable[Happening]:
    for one in evidence.run.rounds:
        if one.aggregate_sha256 is None:
            yield Happening(kind="round-without-aggregate", where=str(one.round))
    yield from _refusals(evidence)
    for merchant, entries in sorted(evidence.ledgers.items()):
        for entry in entries:
            yield from _of_entry(merchant, entry)
        yield from _open_reservations(merchant, entries)
    for check in report.checks:
        if not check.passed and not check.absent:
            yield Happening(kind="failed-check", where=check.where, detail=check.detail)


def _refusals(evidence: Evidence) -> Iterable[Happening]:
    """Answers that did not count, by merchant and rule."""
    counts: Counter[tuple[str, str]] = Counter()
    for one in evidence.run.rounds:
        for merchant, why in one.refused.items():
            counts[merchant, why.partition(": ")[0]] += 1
    for (merchant, rule), count in sorted(counts.items()):
        yield Happening(kind="answer-not-counted", who=merchant, detail=rule, where=str(count))


def _of_entry(merchant: str, entry: Entry) -> Iterable[Happening]:
    where = f"{entry.position} ({entry.time[:10]} {entry.time[11:16]})"
    match entry.body:
        case RaiseCap() as body:
            yield Happening(
                kind="cap-raised", who=merchant, where=where, detail=f"{body.cap_epsilon:g}"
            )
        case Refund() as body:
            yield Happening(kind="refund", who=merchant, where=where, detail=body.id)
        case Refuse() as body:
            needed = f"{round_up(body.epsilon_needed)} > {body.cap_epsilon:g} ({body.scope})"
            yield Happening(kind="refused-over-cap", who=merchant, where=where, detail=needed)
        case Declare() as body:
            yield Happening(kind="outside-epsilon", who=merchant, where=where, detail=body.app)
        case _:
            return


def _open_reservations(merchant: str, entries: Iterable[Entry]) -> Iterable[Happening]:
    """Paid for, and never answered; it stays spent."""
    settled = {one.body.id for one in entries if isinstance(one.body, Commit | Refund)}
    left = [
        one.body.id
        for one in entries
        if isinstance(one.body, Reserve) and one.body.id not in settled
    ]
    if left:
        yield Happening(
            kind="spent-without-answer", who=merchant, where=str(len(left)), detail=left[0]
        )
