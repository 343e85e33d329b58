import json
from pathlib import Path
from typing import Any

import pytest

from hansa.audit.findings import Check, Report
from hansa.audit.verifier import verify
from hansa.core.errors import AuditFailedError, InvalidInputError
from hansa.core.evidence import PLAN_DOMAIN, read_pack
from hansa.core.privacy.entries import RaiseCap, make_entry
from hansa.core.privacy.events import Gaussian
from hansa.core.signing import key_id_of, sign, signing_key
from tests.fakes.audit_world import (
    MERCHANTS,
    NOW,
    PLAN,
    PLAN_KEY,
    PRIVACY,
    AuditWorld,
    members_of,
)
from tests.fakes.release_world import ReleaseWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("audit"))


def faults(report: Report) -> list[Check]:
    return [check for check in report.checks if not check.passed and not check.absent]


def failures(report: Report) -> list[tuple[str, str]]:
    return [(check.where, check.name) for check in faults(report)]


def failed(world: AuditWorld, **changes: Any) -> list[tuple[str, str]]:
    return failures(verify(world.evidence(**changes)))


def test_an_honest_run_passes_every_check(world: AuditWorld) -> None:
    report = verify(
        read_pack(world.pack()),
        pinned_root=world.releases.root,
        plan_key=key_id_of(PLAN_KEY),
    )
    assert failures(report) == []
    assert report.passed
    assert report.root_pinned
    assert report.release == "stable 1"
    assert report.expires.keys() == {"root", "timestamp", "snapshot", "targets", "stable"}
    assert [spend.merchant for spend in report.spends] == MERCHANTS
    for spend in report.spends:
        assert abs(spend.epsilon_pld - spend.epsilon_prv) <= 0.015
        assert spend.epsilon_rdp > spend.epsilon_pld == spend.run_epsilon
        assert (spend.reservations, spend.commits) == (3, 3)
    report.require()


def test_a_run_that_released_nothing_passes_too(world: AuditWorld) -> None:
    report = verify(world.evidence(release=None))
    assert report.passed
    assert report.release is None


def test_a_merchant_that_never_answered_breaks_nothing(world: AuditWorld) -> None:
    evidence = world.evidence()
    silent = {**evidence.ledgers, "quiet": ()}
    records = {**evidence.merchants, "quiet": evidence.merchants["harbour"]}
    found = failed(world, ledgers=silent, merchants=records)
    assert found == [("merchants.json", "certificate names it")]


def test_a_failed_report_names_the_first_fault(world: AuditWorld) -> None:
    run = world.run.model_copy(update={"plan_digest": "0" * 64})
    with pytest.raises(AuditFailedError, match=r"plan\.json: plan is signed: run\.json names"):
        verify(world.evidence(run=run)).require()


def test_a_plan_signed_by_another_key_than_the_pinned_one_fails(world: AuditWorld) -> None:
    stranger = key_id_of(signing_key(b"s" * 32))
    report = verify(world.evidence(), plan_key=stranger)
    assert ("plan.json", "plan is signed") in failures(report)


def test_a_changed_plan_fails(world: AuditWorld) -> None:
    signed = world.evidence().plan
    changed = signed.model_copy(update={"payload": {**signed.payload, "name": "other"}})
    assert ("plan.json", "plan is signed") in failed(world, plan=changed)


def test_another_plan_than_the_runs_fails(world: AuditWorld) -> None:
    other = PLAN.model_copy(update={"name": "winter"})
    plan = sign(other.model_dump(mode="json"), PLAN_KEY, domain=PLAN_DOMAIN)
    assert ("plan.json", "plan is signed") in failed(world, plan=plan)


def changed_round(world: AuditWorld, **change: Any) -> Any:
    rounds = list(world.run.rounds)
    rounds[1] = rounds[1].model_copy(update=change)
    return world.run.model_copy(update={"rounds": tuple(rounds)})


@pytest.mark.parametrize(
    "change",
    [
        {"round": 0},
        {"cohort": ("harbour",)},
        {"refused": {"harbour": "too late"}},
        {"accepted": {}},
    ],
)
def test_rounds_that_contradict_themselves_fail(world: AuditWorld, change: Any) -> None:
    assert ("run.json", "rounds are consistent") in failed(
        world, run=changed_round(world, **change)
    )


def test_an_update_that_is_not_the_committed_one_fails(world: AuditWorld) -> None:
    accepted = {**world.run.rounds[1].accepted, "market": "0" * 64}
    found = failed(world, run=changed_round(world, accepted=accepted))
    assert found == [("ledgers/market.jsonl", "updates are booked")]


def test_an_update_that_was_never_reserved_fails(world: AuditWorld) -> None:
    entries = {name: ledger.entries for name, ledger in world.ledgers.items()}
    found = failed(world, ledgers={**entries, "market": entries["market"][:5]})
    assert found == [("ledgers/market.jsonl", "updates are booked")]


def test_an_update_booked_for_less_than_the_plan_costs_fails(world: AuditWorld) -> None:
    cheap = [PRIVACY.round_event().model_copy(update={"steps": 4})]
    entries = {name: ledger.entries for name, ledger in world.ledgers.items()}
    entries[MERCHANTS[1]] = world.ledger("market", events=cheap).entries
    found = failed(world, ledgers=entries)
    assert found == [("ledgers/market.jsonl", "updates are booked")]


def test_a_missing_ledger_fails_and_hides_no_epsilon(world: AuditWorld) -> None:
    entries = {"harbour": world.ledgers[MERCHANTS[0]].entries}
    assert failed(world, ledgers=entries) == [
        ("ledgers/market.jsonl", "chain is whole"),
        ("release/manifest.json", "epsilon is not understated"),
    ]


def test_an_edited_ledger_fails_and_names_the_entry(world: AuditWorld) -> None:
    entries = list(world.ledgers[MERCHANTS[0]].entries)
    entries[3] = entries[3].model_copy(update={"time": "2020-01-01T00:00:00Z"})
    ledgers = {**world.evidence().ledgers, "harbour": tuple(entries)}
    report = verify(world.evidence(ledgers=ledgers))
    fault = faults(report)[0]
    assert fault.where == "ledgers/harbour.jsonl"
    assert "entry 3" in fault.detail


def test_a_ledger_under_another_key_than_registered_fails(world: AuditWorld) -> None:
    records = dict(world.merchants)
    records["market"] = records["market"].model_copy(update={"ledger_public_key": "0" * 64})
    assert ("ledgers/market.jsonl", "chain is whole") in failed(world, merchants=records)


def test_a_certificate_of_another_merchant_fails(world: AuditWorld) -> None:
    records = dict(world.merchants)
    records["market"] = records["market"].model_copy(
        update={"certificate_pem": records["harbour"].certificate_pem}
    )
    assert failed(world, merchants=records) == [("merchants.json", "certificate names it")]


def test_a_ledger_over_its_cap_fails_even_if_the_cap_was_raised_later(world: AuditWorld) -> None:
    key = signing_key(b"market".ljust(32, b"."))
    entries = list(world.ledger("market").entries)
    opening = entries[0].body.model_copy(update={"cap_epsilon": 0.5})
    rebuilt = [make_entry(opening, after=None, now=NOW, key=key)]
    for entry in [*entries[1:], None]:
        body = RaiseCap(cap_epsilon=9.0) if entry is None else entry.body
        rebuilt.append(make_entry(body, after=rebuilt[-1], now=NOW, key=key))
    ledgers = {**world.evidence().ledgers, "market": tuple(rebuilt)}
    assert failed(world, ledgers=ledgers) == [("ledgers/market.jsonl", "cap is kept")]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"run": "run-2"}, "manifest names the run"),
        ({"plan_digest": "0" * 64}, "manifest names the run"),
        ({"rounds": [1, 7]}, "manifest names the run"),
        ({"unit": "record"}, "manifest names the run"),
        ({"epsilon": "0.01"}, "epsilon is not understated"),
        ({"delta": 1e-3}, "epsilon is not understated"),
    ],
)
def test_a_release_that_misstates_its_origin_fails(
    tmp_path: Path, change: dict[str, Any], name: str
) -> None:
    world = AuditWorld(tmp_path)
    release = world.publish(**{"epsilon": "9.0", **change})
    assert failed(world, release=release) == [("release/manifest.json", name)]


def test_an_understated_epsilon_counts_crashed_rounds_and_evaluations(world: AuditWorld) -> None:
    extra = [PRIVACY.round_event(), Gaussian(noise_multiplier=3.0, releases=1)]
    entries = {name: ledger.entries for name, ledger in world.ledgers.items()}
    entries[MERCHANTS[0]] = world.ledger("harbour", events=extra).entries
    assert failed(world, ledgers=entries) == [
        ("release/manifest.json", "epsilon is not understated")
    ]


def test_a_manifest_that_was_not_signed_fails(world: AuditWorld) -> None:
    forged = world.manifest(epsilon="9.9").to_bytes()
    release = world.release.model_copy(update={"manifest": forged})
    assert failed(world, release=release) == [("release/metadata", "TUF vouches for it")]


def newest_metadata(metadata: dict[str, bytes]) -> list[str]:
    versions: dict[str, int] = {}
    for name in metadata:
        number, _, role = name.partition(".")
        if number.isdecimal():
            versions[role] = max(versions.get(role, 0), int(number))
    return ["timestamp.json", *(f"{number}.{role}" for role, number in versions.items())]


def test_every_metadata_file_is_needed_and_its_signatures_must_hold(world: AuditWorld) -> None:
    metadata = world.release.metadata
    names = newest_metadata(metadata)
    assert len(names) == 5
    for name in names:
        content = json.loads(metadata[name])
        content["signed"]["expires"] = "2099-01-01T00:00:00Z"
        without = {key: data for key, data in metadata.items() if key != name}
        for forged in (without, {**metadata, name: json.dumps(content).encode()}):
            release = world.release.model_copy(update={"metadata": forged})
            report = verify(world.evidence(release=release))
            assert failures(report) == [("release/metadata", "TUF vouches for it")]
            detail = faults(report)[0].detail
            assert name.lstrip("0123456789.") in detail


def test_a_release_of_a_foreign_root_fails_against_the_pinned_one(
    world: AuditWorld, tmp_path: Path
) -> None:
    foreign = ReleaseWorld(tmp_path).root
    report = verify(world.evidence(), pinned_root=foreign)
    assert failures(report) == [("release/metadata", "TUF vouches for it")]


def test_a_renewed_root_is_reached_from_the_pinned_one(tmp_path: Path) -> None:
    world = AuditWorld(tmp_path)
    first_root = world.releases.root
    world.releases.renew()
    world.releases.renew()
    release = world.publish(epsilon="9.0")
    assert "2.root.json" in release.metadata
    assert verify(world.evidence(release=release), pinned_root=first_root).passed
    gap = {key: data for key, data in release.metadata.items() if key != "2.root.json"}
    cut = release.model_copy(update={"metadata": gap})
    report = verify(world.evidence(release=cut), pinned_root=first_root)
    assert [check.detail for check in faults(report)] == [
        "2.root.json is missing from the chain of roots"
    ]


def test_a_pinned_root_that_is_none_is_bad_input(world: AuditWorld) -> None:
    with pytest.raises(InvalidInputError, match="pinned root"):
        verify(world.evidence(), pinned_root=b"{}")


def test_the_pack_holds_what_the_verifier_needs_and_nothing_else(world: AuditWorld) -> None:
    fixed = {name for name in members_of(world.pack()) if "metadata" not in name}
    assert fixed == {
        "index.json",
        "plan.json",
        "run.json",
        "merchants.json",
        "ledgers/harbour.jsonl",
        "ledgers/market.jsonl",
        "release/manifest.json",
    }
