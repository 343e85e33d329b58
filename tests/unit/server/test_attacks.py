"""Attackers among the merchants: what the intake stops, what a robust rule withstands."""

import pytest
from benchmarks.attacks import ATTACKS, rules, run

ROUNDS = 6
ATTACKERS = 4


def accuracy(rule: str, attack: str) -> float:
    found = run(rule, attack, ATTACKERS, rounds=ROUNDS, seed=0)
    assert found.accuracy is not None
    return found.accuracy


@pytest.fixture(scope="module")
def unharmed() -> float:
    return accuracy("FedMedian", "none")


@pytest.mark.parametrize("attack", ["sign flip", "scaling", "Gaussian"])
def test_the_median_withstands_what_ruins_the_plain_mean(attack, unharmed) -> None:
    assert accuracy("FedMedian", attack) >= 0.98 * unharmed
    assert accuracy("FedAvg", attack) < 0.95 * unharmed


@pytest.mark.parametrize("attack", ["label flip", "replay", "free rider"])
def test_the_median_withstands_quiet_attacks_too(attack, unharmed) -> None:
    assert accuracy("FedMedian", attack) >= 0.98 * unharmed


@pytest.mark.parametrize("attack", ["NaN", "oversized"])
def test_what_is_not_finite_or_goes_too_far_never_reaches_a_strategy(attack, unharmed) -> None:
    found = run("FedAvg", attack, ATTACKERS, rounds=ROUNDS, seed=0)
    assert found.accuracy is not None
    assert found.accuracy >= 0.98 * unharmed
    # Rounds 2 to 4 are three faults in a row; rounds 5 and 6 do not ask the attackers any more.
    assert found.refused == {"rejected": 3 * ATTACKERS, "quarantine": 2 * ATTACKERS}


def test_a_rule_that_the_attackers_leave_too_few_updates_for_fails_loudly() -> None:
    """Bulyan needs 4 * 4 + 3 = 19 valid updates; 20 merchants less 4 that send NaN are 16."""
    assert run("Bulyan", "NaN", ATTACKERS, rounds=ROUNDS, seed=0).accuracy is None


def test_every_rule_has_options_that_its_strategy_takes() -> None:
    assert set(rules(4)) == set(rules(6)) | {"Bulyan"}
    assert set(ATTACKS) >= {"sign flip", "scaling", "Gaussian", "label flip", "NaN", "replay"}
