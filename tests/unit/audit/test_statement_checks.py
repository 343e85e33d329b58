"""The auditor against privacy statements that lie; each is signed by all the right keys."""

from typing import Any

import pytest

from hansa.audit.findings import Report
from hansa.audit.verifier import verify
from hansa.core.evidence import Evidence, read_pack, write_pack
from hansa.core.release import epsilon_text
from hansa.core.statement import Contributor, PrivacyStatement
from tests.fakes.audit_world import PLAN_KEY, AuditWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("audit"), stated=True)


def failures(report: Report) -> list[tuple[str, str]]:
    return [(one.name, one.detail) for one in report.checks if not one.passed and not one.absent]


def with_release(world: AuditWorld, **stated: Any) -> Evidence:
    """The run's evidence with a new release, whose statement has this instead of the truth."""
    epsilon = stated.pop("epsilon", epsilon_text([world.true_epsilon()]))
    return world.evidence(release=world.publish(stated=stated, epsilon=epsilon))


def test_a_true_statement_passes_and_says_that_nobody_attacked_the_training(
    world: AuditWorld,
) -> None:
    report = verify(read_pack(write_pack(world.logged(), PLAN_KEY)))
    assert failures(report) == []
    own = {one.name: one for one in report.checks if one.where == "release/privacy.json"}
    assert [one.passed for one in own.values()] == [True] * 5 + [False]
    assert own["empirical audit follows from its counts"].absent
    assert "was not run" in own["empirical audit follows from its counts"].detail
    assert own["statement names the contributors"].detail.startswith("2 contributors")


def test_a_pack_without_a_log_leaves_the_code_unexamined(world: AuditWorld) -> None:
    report = verify(world.evidence())
    (code,) = [one for one in report.checks if one.name == "statement's code is in the log"]
    assert code.absent
    assert report.passed


def test_a_pack_of_before_statements_shows_them_as_absent(world: AuditWorld) -> None:
    release = world.publish(epsilon=epsilon_text([world.true_epsilon()]))
    report = verify(world.evidence(release=release))
    own = [one for one in report.checks if one.where == "release/privacy.json"]
    assert len(own) == 6
    assert all(one.absent for one in own)
    assert report.passed


def test_a_statement_that_was_taken_out_of_the_pack_is_missed(world: AuditWorld) -> None:
    release = world.release.model_copy(update={"statement": None})
    ((name, detail),) = failures(verify(world.evidence(release=release)))
    assert (name, "the pack lacks it" in detail) == ("statement is the manifest's", True)


def test_a_statement_that_was_edited_in_the_pack_fails(world: AuditWorld) -> None:
    assert world.release.statement is not None
    edited = world.release.statement.replace(b'"shopper"', b'"records"')
    release = world.release.model_copy(update={"statement": edited})
    ((name, detail),) = failures(verify(world.evidence(release=release)))
    assert (name, "not what the manifest promises" in detail) == (
        "statement is the manifest's", True
    )  # fmt: skip


def test_a_statement_of_another_release_fails(world: AuditWorld) -> None:
    evidence = with_release(world, release={"run": "run-2"})
    assert [name for name, _ in failures(verify(evidence))] == ["statement is the manifest's"]


def test_understated_epsilon_fails_beside_the_manifests(world: AuditWorld) -> None:
    found = failures(verify(with_release(world, epsilon="0.1")))
    assert [name for name, _ in found] == [
        "epsilon is not understated",
        "statement understates nothing",
    ]
    assert found[1][1].startswith("harbour: the privacy statement understates epsilon: it says 0.1")


@pytest.mark.parametrize(
    ("field", "value"), [("noise_multiplier", 3.0), ("clip_norm", 0.5), ("sampling_rate", 0.01)]
)
def test_a_mechanism_that_is_not_the_plans_fails(
    world: AuditWorld, field: str, value: float
) -> None:
    evidence = with_release(world, mechanism={field: value})
    ((name, detail),) = failures(verify(evidence))
    assert name == "statement agrees with the plan"
    assert f"its {field} is {value}" in detail


def test_a_contributor_that_is_left_out_is_missed(world: AuditWorld) -> None:
    evidence = with_release(world, contributors=world.contributors()[:1])
    ((name, detail),) = failures(verify(evidence))
    assert name == "statement names the contributors"
    assert detail.startswith("it names 1 contributors, of whom 1 are among the 2")


def test_a_contributor_that_gave_nothing_is_noticed(world: AuditWorld) -> None:
    ghost = Contributor(member="f" * 64, ledger_head="f" * 64)
    parts = tuple(sorted((*world.contributors(), ghost), key=lambda one: one.member))
    found = failures(verify(with_release(world, contributors=parts)))
    assert [name for name, _ in found] == ["statement names the contributors"]


def test_a_head_that_is_no_reservation_of_the_run_fails(world: AuditWorld) -> None:
    opening = world.ledgers["harbour"].entries[0].hash  # type: ignore[index]
    parts = tuple(one.model_copy(update={"ledger_head": opening}) for one in world.contributors())
    found = failures(verify(with_release(world, contributors=parts)))
    assert [name for name, _ in found] == ["statement understates nothing"]
    assert "reserved nothing for run-1" in found[0][1]


def test_code_that_the_log_does_not_know_fails(world: AuditWorld) -> None:
    release = world.publish(
        stated={"code": {"server_sha256": "e" * 64}}, epsilon=epsilon_text([world.true_epsilon()])
    )
    found = failures(verify(world.logged(release=release)))
    assert (
        "statement's code is in the log",
        "the log holds no server with the code eeeeeeeeeeee",
    ) in found


def test_the_statement_survives_the_pack_byte_for_byte(world: AuditWorld) -> None:
    release = read_pack(world.pack()).release
    assert release is not None
    assert release.statement is not None
    assert PrivacyStatement.parse(release.statement).to_bytes() == release.statement
