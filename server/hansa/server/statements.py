"""Makes a release's privacy statement out of the server's books, after checking them.

Nothing of it is typed in: what cannot be shown from the plan, the rounds and the merchants' signed
ledgers is not stated, and a release whose books contradict each other is not published.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hansa.core.code_identity import installed_code
from hansa.core.empirical import EmpiricalResult
from hansa.core.errors import AuditFailedError, HansaError, ReleaseGateError
from hansa.core.ids import MerchantId, RunId, Sha256, task_id
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import (
    accountants,
    epsilon_pld,
    epsilon_rdp,
    reference_accountant,
)
from hansa.core.privacy.bodies import Refuse, Reserve
from hansa.core.privacy.entries import Entry
from hansa.core.privacy.events import PrivacyEvent, covers
from hansa.core.privacy.ledger import Ledger
from hansa.core.privacy.plan import EVALUATE, TRAIN, PrivacyPlan
from hansa.core.privacy.spending import CapWatch
from hansa.core.release import ReleaseManifest, epsilon_text
from hansa.core.statement import (
    AccountantFigure,
    Claim,
    CodeFacts,
    Contributor,
    Mechanism,
    PrivacyStatement,
    ReleaseFacts,
    covered,
    member_digest,
    not_protected,
    ordered,
)
from hansa.core.statement_rules import booked_for, head_of_run
from hansa.core.storage import write_atomically
from hansa.server.empirical import EmpiricalAuditError
from hansa.server.plane.version import SOFTWARE
from hansa.server.state.runs import RoundRecord

_log = logging.getLogger(__name__)

CHECKS: Final = ("ledgers-are-whole", "updates-are-booked", "caps-are-kept")
"""What the server verifies of its own evidence; a failure prevents the release."""

EMPIRICAL: Final = "empirical"
"""Folder of the operator's state with the canary audits, one file ``PLAN_DIGEST.json`` each."""

RELATION: Final = "add-or-remove-one"

Attack = Callable[[RunPlan, int], EmpiricalResult]
"""Audits a plan's training with this seed."""

_SEED_FIGURES: Final = 12

_SPENT_NOTHING: Final = frozenset({"budget", "contract", "quarantine"})
"""Reasons of a round's refusals that come before anything is reserved."""

Ledgers = Mapping[str, tuple[Entry, ...]]


@dataclass(frozen=True, kw_only=True)
class Books:
    """What the server holds about one run."""

    run: RunId
    plan: RunPlan
    rounds: tuple[RoundRecord, ...]
    """The aggregated rounds."""
    ledgers: Ledgers
    """Of all merchants that were asked, by name."""

    @property
    def contributors(self) -> list[MerchantId]:
        """Who has an update in one of the aggregates."""
        return sorted({name for one in self.rounds for name in one.accepted})

    def events(self) -> dict[str, list[PrivacyEvent]]:
        """What each merchant may have spent by now, as far as this server can know."""
        heads = {name: head_of_run(own, self.run) for name, own in self.ledgers.items()}
        return {
            name: []
            if head is None
            else [*booked_for(self.ledgers[name], self.run, head), *self._unseen(name)]
            for name, head in heads.items()
        }

    def _unseen(self, merchant: str) -> list[PrivacyEvent]:
        """What a contributor may have reserved since it last handed its entries over.

        It never answered some of its last tasks. Its own ledger may have them, and its shoppers
        must not read a smaller epsilon in the statement than it does there.
        """
        if merchant not in self.contributors:
            return []
        own = [one.body for one in self.ledgers[merchant]]
        booked = [one for one in own if isinstance(one, Reserve) and one.run == self.run]
        last = max((one.round for one in booked if one.phase == TRAIN), default=-1)
        asked = [one for one in self.rounds if one.number > last and _may_have_spent(one, merchant)]
        privacy = PrivacyPlan.of(self.plan)
        events = [privacy.round_event() for _ in asked]
        report = privacy.evaluation_event()
        answered = any(one.phase == EVALUATE for one in booked) or any(
            isinstance(one, Refuse) and one.id.startswith(f"{self.run}/") for one in own
        )
        return events if report is None or answered else [*events, report]


def _may_have_spent(one: RoundRecord, merchant: str) -> bool:
    name = MerchantId(merchant)
    refusal = one.refused.get(name)
    return name in one.cohort and (refusal is None or refusal.reason not in _SPENT_NOTHING)


def claim_of(books: Books) -> Claim:
    """Epsilon over everything that the merchants had booked, by the accountants of this server."""
    events, delta = books.events(), books.plan.privacy.delta
    merged = [event for own in events.values() for event in own]
    reference = reference_accountant(merged)
    kinds = {"google-rdp": epsilon_rdp}
    if reference == "google-pld":
        kinds["google-pld"] = epsilon_pld
    figures = {
        name: AccountantFigure(
            version=accountants()[name],
            epsilon=epsilon_text(compute(own, delta) for own in events.values()),
        )
        for name, compute in kinds.items()
    }
    return Claim(
        epsilon=figures[reference].epsilon,
        delta=delta,
        unit=books.plan.privacy.unit,
        neighbouring_relation=RELATION,
        reference=reference,
        accountants=figures,
    )


def statement_of(
    books: Books,
    claim: Claim,
    manifest: ReleaseManifest,
    *,
    checks: Sequence[str] = (),
    empirical: EmpiricalResult | None = None,
) -> PrivacyStatement:
    """The statement of the release that this manifest describes.

    Args:
        books: of its run.
        claim: what ``claim_of`` made of them.
        manifest: the release's, whether or not it lists the statement already.
        checks: what ``check_books`` has verified.
        empirical: the canary audit of this plan and this code; None: it was not run.

    Raises:
        AuditFailedError: a contributor has reserved nothing.
    """
    return PrivacyStatement(
        release=ReleaseFacts.of(manifest),
        claim=claim,
        mechanism=Mechanism.of(books.plan),
        contributors=ordered([_contributor(books, name) for name in books.contributors]),
        code=CodeFacts(software=SOFTWARE, server_sha256=installed_code()),
        covers=covered(books.plan),
        not_protected=not_protected(books.plan),
        checks=tuple(checks),
        empirical=empirical,
    )


def find_empirical(folder: Path, plan: str) -> EmpiricalResult | None:
    """The canary audit of this plan by this very code, if the operator has run it.

    Args:
        folder: the operator's state.
        plan: the plan's digest.

    Raises:
        InvalidInputError: the file was edited into something else.
        ReleaseGateError: the audit found a fault.
    """
    path = folder / EMPIRICAL / f"{plan}.json"
    if not path.exists():
        return None
    result = EmpiricalResult.parse(path.read_bytes())
    if (result.plan_digest, result.code_digest) != (plan, installed_code()):
        return None
    if not result.passed:
        raise ReleaseGateError(
            f"the empirical audit of this plan failed: {'; '.join(result.faults())}; mend the "
            "training, then audit it anew"
        )
    return result


def audited(
    folder: Path, plan: RunPlan, aggregate: Sha256, attack: Attack | None
) -> EmpiricalResult | None:
    """The empirical audit of the plan: one that is kept, else a new one, which is kept then.

    Args:
        folder: the operator's state.
        plan: the run's.
        aggregate: what is about to be released; nobody could choose it, so it gives the seed.
        attack: runs the audit; None: a kept one or none.

    Returns:
        None where it was not run, or came to no result: the statement then says so.

    Raises:
        ReleaseGateError: the audit found a fault.
        InvalidInputError: a kept result was edited.
    """
    known = find_empirical(folder, plan.digest)
    if known is not None or attack is None:
        return known
    try:
        result = attack(plan, int(aggregate[:_SEED_FIGURES], 16))
    except EmpiricalAuditError as error:
        _log.warning("release without an empirical audit: %s", error)
        return None
    kept = folder / EMPIRICAL
    kept.mkdir(exist_ok=True)
    write_atomically(kept / f"{plan.digest}.json", result.to_bytes())
    return find_empirical(folder, plan.digest)


def _contributor(books: Books, merchant: MerchantId) -> Contributor:
    entries = books.ledgers[merchant]
    head = head_of_run(entries, books.run)
    if head is None:
        raise AuditFailedError(f"{merchant} has an update in the model, and reserved nothing")
    dataset = Ledger(entries).opening.dataset_id
    return Contributor(member=member_digest(dataset, books.run, merchant), ledger_head=head)


def check_books(books: Books) -> tuple[str, ...]:
    """Verifies the contributors' ledgers, and each update against them.

    Returns:
        The names of the checks, all of which have passed.

    Raises:
        AuditFailedError: one failed; the sentence names the merchant.
    """
    for merchant in books.contributors:
        try:
            ledger = Ledger(books.ledgers.get(merchant, ()))
            _check_updates(books, merchant, ledger)
            _check_caps(ledger.entries)
        except HansaError as error:
            raise AuditFailedError(
                f"nothing is released: the books about {merchant} do not hold: {error}"
            ) from error
    return CHECKS


def _check_updates(books: Books, merchant: MerchantId, ledger: Ledger) -> None:
    """Every update that entered an aggregate was reserved at the plan's cost and committed."""
    cost = [PrivacyPlan.of(books.plan).round_event()]
    for one in books.rounds:
        if merchant not in one.accepted:
            continue
        work = one.began.get(merchant, one.number)
        body = ledger.reservation(task_id(books.run, work, TRAIN, merchant))
        if body is None or body.plan_digest != books.plan.digest or not covers(body.events, cost):
            raise AuditFailedError(f"round {one.number} was not reserved as the plan costs")
        if ledger.released(task_id(books.run, work, TRAIN, merchant)) != one.accepted[merchant]:
            raise AuditFailedError(f"the update of round {one.number} is not the committed one")


def _check_caps(entries: Sequence[Entry]) -> None:
    watch, booked = CapWatch(), dict[str, tuple[Reserve, str]]()
    for entry in entries:
        overdraft = watch.overdraft(entry)
        if overdraft is not None:
            raise AuditFailedError(f"at entry {entry.position} it raises {overdraft.sentence()}")
        if isinstance(entry.body, Reserve):
            booked[entry.body.id] = (entry.body, entry.time)
        watch.admit(entry, booked.get)
