"""The server states what its books show, and publishes nothing that they do not bear out."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hansa.core.code_identity import installed_code
from hansa.core.empirical import CanaryExperiment, CanarySetting, EmpiricalResult
from hansa.core.errors import AuditFailedError, InvalidInputError, ReleaseGateError
from hansa.core.ids import MerchantId, RunId, Sha256, task_id
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.accounting import accountants, epsilon_pld, epsilon_rdp
from hansa.core.privacy.events import Gaussian, PoissonGaussian
from hansa.core.privacy.ledger import Ledger, open_ledger
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.release import epsilon_text
from hansa.core.signing import signing_key
from hansa.core.statement import PrivacyStatement, member_digest
from hansa.core.statement_rules import check_ledger, check_plan, own_part, read_statement
from hansa.server.empirical import EmpiricalAuditError
from hansa.server.state.runs import Refusal, RoundRecord
from hansa.server.statements import (
    CHECKS,
    EMPIRICAL,
    Books,
    audited,
    check_books,
    claim_of,
    find_empirical,
    statement_of,
)
from tests.fakes.entropy import SeededEntropy
from tests.fakes.release_world import manifest_of
from tests.fakes.statements import listing

NOW = datetime(2026, 11, 24, tzinfo=UTC)
RUN = RunId("autumn-0001")
HARBOUR, MARKET, PIER = MerchantId("harbour"), MerchantId("market"), MerchantId("pier")
PLAN = parse_plan(
    {
        "name": "autumn",
        "privacy": {"sampling_rate": 0.05, "expected_shoppers": 32, "noise_multiplier": 1.0},
        "training": {"local_steps": 5},
        "federation": {"rounds": 3, "quorum": 1},
    },
    "test",
)
EVENT = PrivacyPlan.of(PLAN).round_event()


def sha(merchant: str, number: int) -> Sha256:
    return Sha256(f"{number}{merchant}".encode().hex().ljust(64, "0"))


def ledger_of(
    merchant: MerchantId, rounds: int = 3, *, events: Any = None, before: Any = ()
) -> Ledger:
    """A merchant's ledger after so many rounds, and an earlier run where ``before`` has events."""
    key = signing_key(merchant.encode().ljust(32, b"."))
    ledger = open_ledger(
        cap_epsilon=50.0, delta=1e-5, key=key, entropy=SeededEntropy(len(merchant)), now=NOW
    )
    runs = [(RunId("summer-0001"), 0, list(before))] if before else []
    runs += [(RUN, number, events or [EVENT]) for number in range(rounds)]
    for run, number, booked in runs:
        task = task_id(run, number, "train", merchant)
        ledger.reserve(
            task,
            plan_digest=PLAN.digest,
            run=run,
            round_number=number,
            phase="train",
            events=booked,
            now=NOW,
        )
        ledger.commit(task, sha256=sha(merchant, number), now=NOW)
    return ledger


def round_of(number: int, *merchants: MerchantId, refused: dict[str, str] | None = None) -> Any:
    left = {
        MerchantId(name): Refusal(reason=why, sentence="") for name, why in (refused or {}).items()
    }
    return RoundRecord(
        number=number,
        cohort=[*merchants, *left],
        accepted={name: sha(name, number) for name in merchants},
        refused=left,
        aggregate_sha256=Sha256("a" * 64),
        seconds=1.0,
        down_bytes=1,
        up_bytes=1,
    )


def books(**changes: Any) -> Books:
    ledgers = {name: ledger_of(name).entries for name in (HARBOUR, MARKET)}
    rounds = tuple(round_of(number, HARBOUR, MARKET) for number in range(3))
    return replace(Books(run=RUN, plan=PLAN, rounds=rounds, ledgers=ledgers), **changes)


def stated(own: Books, **changes: Any) -> PrivacyStatement:
    claim = claim_of(own)
    manifest = manifest_of(
        {"model.onnx": b"weights"}, 1, run=RUN, plan_digest=PLAN.digest, epsilon=claim.epsilon,
        accountants=accountants(), neighbouring_relation=claim.neighbouring_relation,
    )  # fmt: skip
    statement = statement_of(own, claim, manifest, checks=check_books(own), **changes)
    data = statement.to_bytes()
    return read_statement(listing(manifest, data), data)


def test_a_statement_follows_from_the_books_and_agrees_with_everything() -> None:
    own = books()
    statement = stated(own)
    events = [EVENT] * 3
    assert statement.claim.epsilon == epsilon_text([epsilon_pld(events, 1e-5)])
    assert statement.claim.reference == "google-pld"
    figures = statement.claim.accountants
    assert figures["google-rdp"].epsilon == epsilon_text([epsilon_rdp(events, 1e-5)])
    assert figures["google-pld"].version == accountants()["google-pld"]
    assert statement.checks == CHECKS
    assert statement.code.server_sha256 == installed_code()
    assert statement.empirical is None
    check_plan(statement, PLAN)
    for name in (HARBOUR, MARKET):
        part = own_part(statement, own.ledgers[name], name)
        assert part is not None
        check_ledger(statement, own.ledgers[name], part)


def test_epsilon_is_the_largest_over_the_merchants_with_all_that_they_booked_before() -> None:
    summer = PoissonGaussian(sampling_rate=0.1, noise_multiplier=1.0, steps=40)
    ledgers = {HARBOUR: ledger_of(HARBOUR).entries,
               MARKET: ledger_of(MARKET, before=[summer]).entries}  # fmt: skip
    expected = epsilon_text([epsilon_pld([summer, *[EVENT] * 3], 1e-5)])
    assert claim_of(books(ledgers=ledgers)).epsilon == expected


def test_who_reserved_without_an_update_in_the_model_counts_and_is_no_contributor() -> None:
    own = books()
    pier = ledger_of(PIER, events=[Gaussian(noise_multiplier=0.9, releases=1)])
    ledgers = {**own.ledgers, PIER: pier.entries}
    statement = stated(replace(own, ledgers=ledgers))
    dataset = ledger_of(PIER).opening.dataset_id
    assert member_digest(dataset, RUN, PIER) not in {one.member for one in statement.contributors}
    assert len(statement.contributors) == 2
    assert float(statement.claim.epsilon) > float(claim_of(own).epsilon)


def test_what_a_contributor_may_have_spent_after_its_last_answer_is_counted() -> None:
    """Market trained once and fell silent: it may have reserved for the later rounds too."""
    rounds = (
        round_of(0, HARBOUR, MARKET),
        round_of(1, HARBOUR, refused={"market": "deadline"}),
        round_of(2, HARBOUR, refused={"market": "budget"}),
    )
    ledgers = {HARBOUR: ledger_of(HARBOUR).entries, MARKET: ledger_of(MARKET, 1).entries}
    own = books(rounds=rounds, ledgers=ledgers)
    assert own.events()[MARKET] == [EVENT, EVENT]
    statement = stated(own)
    later = ledger_of(MARKET, 2)
    part = own_part(statement, later.entries, MARKET)
    assert part is not None
    check_ledger(statement, later.entries, part)


def failing(**changes: Any) -> str:
    with pytest.raises(AuditFailedError) as caught:
        check_books(books(**changes))
    return str(caught.value)


def with_market(ledger: Ledger) -> dict[str, Any]:
    return {"ledgers": {HARBOUR: ledger_of(HARBOUR).entries, MARKET: ledger.entries}}


def test_an_update_that_was_not_reserved_prevents_the_release() -> None:
    assert "market do not hold: round 2 was not reserved" in failing(
        **with_market(ledger_of(MARKET, 2))
    )


def test_an_update_that_was_reserved_for_less_prevents_the_release() -> None:
    cheap = [PoissonGaussian(sampling_rate=0.05, noise_multiplier=9.0, steps=5)]
    ledger = ledger_of(MARKET, events=cheap)
    assert "round 0 was not reserved as the plan costs" in failing(**with_market(ledger))


def test_an_update_that_is_not_the_committed_one_prevents_the_release() -> None:
    first = round_of(0, HARBOUR, MARKET)
    forged = replace(first, accepted={**first.accepted, MARKET: Sha256("f" * 64)})
    assert "the update of round 0 is not the committed one" in failing(rounds=(forged,))


def test_a_broken_ledger_prevents_the_release() -> None:
    entries = ledger_of(MARKET).entries
    ledgers = {HARBOUR: ledger_of(HARBOUR).entries, MARKET: (*entries[:2], *entries[3:])}
    assert "market do not hold: ledger entry 2" in failing(ledgers=ledgers)


def test_a_missing_ledger_prevents_the_release() -> None:
    assert "market do not hold" in failing(ledgers={HARBOUR: ledger_of(HARBOUR).entries})


def empirical(*, passed: bool = True, code: str | None = None) -> EmpiricalResult:
    setting = CanarySetting(noise_multiplier=4.0, sampling_rate=1.0, steps=1, rounds=1)
    experiment = CanaryExperiment(
        canaries_are="gradients", setting=setting, canaries=1000, guesses=100,
        correct=50, claimed_epsilon=0.93, lower_bound=0.1 if passed else 1.7,
    )  # fmt: skip
    return EmpiricalResult(
        plan_digest=PLAN.digest, code_digest=code or installed_code(), seed=1, delta=1e-5,
        confidence=0.95, tries=8, replaced=(), experiments=(experiment,), checks=(), mia=None,
        claimed_epsilon=0.93, lower_bound=experiment.lower_bound, passed=passed,
    )  # fmt: skip


def keep(folder: Path, result: EmpiricalResult) -> None:
    (folder / EMPIRICAL).mkdir()
    (folder / EMPIRICAL / f"{PLAN.digest}.json").write_bytes(result.to_bytes())


def test_the_empirical_audit_of_this_plan_and_code_is_in_the_statement(tmp_path: Path) -> None:
    assert find_empirical(tmp_path, PLAN.digest) is None
    keep(tmp_path, empirical())
    found = find_empirical(tmp_path, PLAN.digest)
    assert found is not None
    assert stated(books(), empirical=found).empirical == found


def test_an_audit_of_other_code_is_not_in_the_statement(tmp_path: Path) -> None:
    keep(tmp_path, empirical(code="e" * 64))
    assert find_empirical(tmp_path, PLAN.digest) is None


def test_an_audit_that_found_a_fault_prevents_the_release(tmp_path: Path) -> None:
    keep(tmp_path, empirical(passed=False))
    with pytest.raises(ReleaseGateError, match=r"canaries show epsilon 1\.700, above"):
        find_empirical(tmp_path, PLAN.digest)


def test_an_audit_that_was_edited_into_a_pass_is_refused(tmp_path: Path) -> None:
    body = json.loads(empirical(passed=False).to_bytes())
    (tmp_path / EMPIRICAL).mkdir()
    edited = json.dumps({**body, "passed": True}).encode()
    (tmp_path / EMPIRICAL / f"{PLAN.digest}.json").write_bytes(edited)
    with pytest.raises(InvalidInputError, match="passed contradicts the figures"):
        find_empirical(tmp_path, PLAN.digest)


def test_a_plan_is_attacked_once_and_the_result_is_kept(tmp_path: Path) -> None:
    seeds: list[int] = []

    def attack(plan: RunPlan, seed: int) -> EmpiricalResult:
        seeds.append(seed)
        return empirical()

    aggregate = Sha256("0000000000ff" + "a" * 52)
    first = audited(tmp_path, PLAN, aggregate, attack)
    assert first == audited(tmp_path, PLAN, aggregate, attack) == empirical()
    assert seeds == [255]


def test_an_attack_that_came_to_no_result_leaves_the_statement_saying_not_run(
    tmp_path: Path,
) -> None:
    def attack(plan: RunPlan, seed: int) -> EmpiricalResult:
        raise EmpiricalAuditError("the client's code is not installed here")

    assert audited(tmp_path, PLAN, Sha256("a" * 64), attack) is None
    assert audited(tmp_path, PLAN, Sha256("a" * 64), None) is None


def test_an_attack_that_finds_a_fault_prevents_this_release_and_the_next(tmp_path: Path) -> None:
    for attack in (lambda plan, seed: empirical(passed=False), None):
        with pytest.raises(ReleaseGateError, match="above the claim"):
            audited(tmp_path, PLAN, Sha256("a" * 64), attack)
