"""When a privacy statement is believed: it agrees with the manifest, the plan and the ledgers.

A merchant has the manifest, its own plan and its own ledger; the auditor has all of them. Whoever
reads a statement applies the rules for what it holds, and refuses what contradicts it.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from hansa.core.canonical import sha256_hex
from hansa.core.contract import Contract, shown
from hansa.core.errors import ContractError, HansaError, UntrustedReleaseError
from hansa.core.ids import Sha256
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import epsilon_reference
from hansa.core.privacy.entries import Entry, Open, Release, Reserve
from hansa.core.privacy.events import PrivacyEvent
from hansa.core.release import ReleaseManifest
from hansa.core.statement import (
    STATEMENT_NAME,
    Contributor,
    Mechanism,
    PrivacyStatement,
    ReleaseFacts,
    covered,
    member_digest,
    not_protected,
)


def read_statement(manifest: ReleaseManifest, data: bytes | None) -> PrivacyStatement:
    """The statement of a release, after everything that the manifest alone can tell.

    Args:
        manifest: of the release, from a source that is trusted or will be checked.
        data: the file's bytes, from anybody; None where there is none.

    Raises:
        UntrustedReleaseError: there is no statement, it is not the one that the manifest names, or
            it contradicts the manifest; the sentence says in what.
    """
    if data is None or STATEMENT_NAME not in manifest.files:
        raise UntrustedReleaseError(missing_sentence(manifest))
    manifest.verify_file(STATEMENT_NAME, sha256_hex(data), len(data))
    statement = PrivacyStatement.parse(data)
    check_manifest(statement, manifest)
    return statement


def missing_sentence(manifest: ReleaseManifest) -> str:
    """Why a release without a statement is not loaded, and what the operator can do."""
    if manifest.restores is not None:
        return (
            f"release {manifest.version} restores release {manifest.restores}, which was made "
            "before releases had privacy statements, and is not loaded; ask the operator to "
            "restore one that has a statement, or to run the plan again"
        )
    return (
        f"release {manifest.version} has no privacy statement ({STATEMENT_NAME}) and is not "
        "loaded; ask the operator to update the server and to run the plan again"
    )


def check_manifest(statement: PrivacyStatement, manifest: ReleaseManifest) -> None:
    """Compares everything that stands in both.

    A release that restores an earlier one has that one's statement: version and time of the first
    publication are older, and nothing else differs.

    Raises:
        UntrustedReleaseError: they differ; the sentence names the field.
    """
    said, known = statement.release, ReleaseFacts.of(manifest)
    if manifest.restores is not None:
        if said.version > manifest.restores:
            raise _of_another("version", said.version, manifest.restores)
        known = known.model_copy(update={"version": said.version, "created": said.created})
    for name in ReleaseFacts.model_fields:
        if getattr(said, name) != getattr(known, name):
            raise _of_another(name, getattr(said, name), getattr(known, name))
    for name in ("epsilon", "delta", "unit", "neighbouring_relation"):
        if getattr(statement.claim, name) != getattr(manifest, name):
            raise _contradicts(name, getattr(statement.claim, name), getattr(manifest, name))
    _check_accountants(statement, manifest)
    _check_empirical(statement)


def _check_accountants(statement: PrivacyStatement, manifest: ReleaseManifest) -> None:
    claim = statement.claim
    reference = claim.accountants.get(claim.reference)
    if reference is None or reference.epsilon != claim.epsilon:
        raise UntrustedReleaseError(
            f"the privacy statement's epsilon {claim.epsilon} is not its accountant's "
            f"({claim.reference}); refuse the release"
        )
    for name, figure in claim.accountants.items():
        if manifest.accountants.get(name) != figure.version:
            raise _contradicts("accountants", f"{name} {figure.version}", manifest.accountants)


def _check_empirical(statement: PrivacyStatement) -> None:
    result = statement.empirical
    if result is None:
        return
    if result.plan_digest != statement.release.plan_digest:
        raise _of_another("empirical audit", result.plan_digest[:12], "of this plan")
    if not result.passed:
        raise UntrustedReleaseError(
            f"the empirical audit of this training failed: {'; '.join(result.faults())}; "
            "refuse the release"
        )


def check_plan(statement: PrivacyStatement, plan: RunPlan) -> None:
    """Compares the mechanism with the very plan that the statement names.

    Raises:
        UntrustedReleaseError: they differ; the sentence names the field.
    """
    if statement.release.plan_digest != plan.digest:
        raise _of_another("plan", statement.release.plan_digest[:12], plan.digest[:12])
    said, true = statement.mechanism, Mechanism.of(plan)
    for name in Mechanism.model_fields:
        if getattr(said, name) != getattr(true, name):
            raise _unlike_plan(name, getattr(said, name), getattr(true, name))
    if statement.claim.delta != plan.privacy.delta:
        raise _unlike_plan("delta", statement.claim.delta, plan.privacy.delta)
    if statement.claim.unit != plan.privacy.unit:
        raise _unlike_plan("unit", statement.claim.unit, plan.privacy.unit)
    if not set(statement.covers) <= set(covered(plan)):
        raise _unlike_plan("covers", statement.covers, covered(plan))
    if not set(not_protected(plan)) <= set(statement.not_protected):
        raise _unlike_plan("not_protected", statement.not_protected, not_protected(plan))


def head_of_run(entries: Sequence[Entry], run: str) -> Sha256 | None:
    """Hash of the last entry that reserved something for the run; None if there is none."""
    own = [one.hash for one in entries if isinstance(one.body, Reserve) and one.body.run == run]
    return Sha256(own[-1]) if own else None


def booked_for(entries: Iterable[Entry], run: str, head: str) -> list[PrivacyEvent]:
    """All that a ledger reserved up to an entry, and for the run after it; less what it took back.

    Whoever reads a copy may not have the newest entries: what a merchant reserved for the run and
    never answered is spent all the same.

    Args:
        entries: the book, verified.
        run: the run that made the release.
        head: hash of a reservation for that run.

    Raises:
        UntrustedReleaseError: the ledger holds no such reservation.
    """
    booked: dict[str, tuple[PrivacyEvent, ...]] = {}
    found = False
    for entry in entries:
        body = entry.body
        if isinstance(body, Reserve) and (not found or body.run == run):
            booked[body.id] = body.events
            found = found or (entry.hash == head and body.run == run)
        elif isinstance(body, Release):
            booked.pop(body.id, None)
    if not found:
        raise UntrustedReleaseError(
            f"the ledger reserved nothing for {run} as entry {head[:12]}, which the privacy "
            "statement names"
        )
    return [event for events in booked.values() for event in events]


def own_part(
    statement: PrivacyStatement, entries: Sequence[Entry], merchant: str
) -> Contributor | None:
    """The part of the statement that speaks of this ledger's merchant; None if it has no update."""
    if not entries or not isinstance(opening := entries[0].body, Open):
        return None
    own = member_digest(opening.dataset_id, statement.release.run, merchant)
    return next((one for one in statement.contributors if one.member == own), None)


def check_ledger(statement: PrivacyStatement, entries: Sequence[Entry], part: Contributor) -> float:
    """Recomputes what a contributor had spent, from its own ledger.

    Returns:
        Epsilon of all up to the statement's head, and of the run, at the statement's delta.

    Raises:
        UntrustedReleaseError: the head is no reservation of the run in this ledger, or epsilon is
            understated.
    """
    booked = booked_for(entries, statement.release.run, part.ledger_head)
    true = _epsilon(booked, statement.claim.delta)
    if Decimal(statement.claim.epsilon) < Decimal(true):
        raise UntrustedReleaseError(
            f"the privacy statement understates epsilon: it says {statement.claim.epsilon}, and "
            f"the ledger has spent {true:.4f}; refuse the release"
        )
    return true


def _epsilon(events: Sequence[PrivacyEvent], delta: float) -> float:
    try:
        return epsilon_reference(events, delta)
    except HansaError as error:
        raise UntrustedReleaseError(f"the stated epsilon cannot be recomputed: {error}") from error


def check_contract(statement: PrivacyStatement, contract: Contract) -> None:
    """Compares the guarantee with the terms of a merchant whose update is in the model.

    Raises:
        ContractError: the release is outside the terms; the sentence names the term.
    """
    mechanism, claim = statement.mechanism, statement.claim
    if not contract.releases:
        raise _outside("releases", False, "this is one")
    if claim.unit not in contract.units:
        raise _outside("units", contract.units, f"its statement protects each {claim.unit}")
    if mechanism.noise not in contract.noise:
        raise _outside("noise", contract.noise, f"its noise is {mechanism.noise}")
    if mechanism.colluders is not None and mechanism.colluders < contract.min_colluders:
        asked = f"it bears with {mechanism.colluders} colluders"
        raise _outside("min_colluders", contract.min_colluders, asked)
    _check_amounts(statement, contract)


def _check_amounts(statement: PrivacyStatement, contract: Contract) -> None:
    mechanism, delta = statement.mechanism, statement.claim.delta
    least = min(
        mechanism.noise_multiplier, mechanism.report_noise_multiplier or mechanism.noise_multiplier
    )
    if least < contract.min_noise_multiplier:
        asked = f"its noise multiplier is {least:g}"
        raise _outside("min_noise_multiplier", contract.min_noise_multiplier, asked)
    if mechanism.sampling_rate > contract.max_sampling_rate:
        asked = f"its sampling rate is {mechanism.sampling_rate:g}"
        raise _outside("max_sampling_rate", contract.max_sampling_rate, asked)
    if contract.max_delta is not None and delta > contract.max_delta:
        raise _outside("max_delta", contract.max_delta, f"its delta is {delta:g}")
    if contract.secure_aggregation_only and not mechanism.secure_aggregation:
        raise _outside("secure_aggregation_only", True, "the server saw each update")


def _outside(term: str, allowed: object, asked: str) -> ContractError:
    return ContractError(
        f"the release is not loaded: {asked}, and the contract's {term} is {shown(allowed)}; "
        "the merchant may change that with 'hansa-client contract accept'"
    )


def _of_another(name: str, said: object, known: object) -> UntrustedReleaseError:
    return UntrustedReleaseError(
        f"the privacy statement is of another release: its {name} is {said}, not {known}; "
        "refuse the release"
    )


def _contradicts(name: str, said: object, known: object) -> UntrustedReleaseError:
    return UntrustedReleaseError(
        f"the privacy statement contradicts the manifest: its {name} is {said}, not {known}; "
        "refuse the release"
    )


def _unlike_plan(name: str, said: object, known: object) -> UntrustedReleaseError:
    return UntrustedReleaseError(
        f"the privacy statement contradicts the plan: its {name} is {said}, not {known}; "
        "refuse the release"
    )
