import json
import subprocess
import sys

import pytest

from hansa.core.empirical import EmpiricalResult
from hansa.core.errors import InvalidInputError
from tests.fakes.empirical_results import empirical_body


def _parse(body: dict) -> EmpiricalResult:
    return EmpiricalResult.parse(json.dumps(body).encode())


def test_a_result_survives_its_canonical_form() -> None:
    result = _parse(empirical_body())
    assert EmpiricalResult.parse(result.to_bytes()) == result
    assert (result.faults(), result.wrong_bounds()) == ((), ())


def test_a_bound_above_the_claim_cannot_be_called_passed() -> None:
    body = empirical_body()
    body["experiments"][0]["lower_bound"] = body["lower_bound"] = 0.95
    with pytest.raises(InvalidInputError, match="passed contradicts"):
        _parse(body)
    result = _parse({**body, "passed": False})
    assert "0.950, above the claim of 0.926" in result.faults()[0]


def test_a_failed_check_cannot_be_called_passed() -> None:
    body = empirical_body()
    body["checks"][0]["measured"] = 0.25
    with pytest.raises(InvalidInputError, match="passed contradicts"):
        _parse(body)
    assert _parse({**body, "passed": False}).faults() == ("noise-scale is 0.25, not 1",)


def test_the_headline_is_the_experiment_nearest_to_a_fault() -> None:
    body = empirical_body()
    with pytest.raises(InvalidInputError, match="worst experiment"):
        _parse({**body, "lower_bound": 0.0})


def test_a_bound_that_does_not_follow_from_the_counts_is_found() -> None:
    body = empirical_body()
    body["experiments"][0]["correct"] = 700
    assert _parse(body).wrong_bounds() == (0,)


@pytest.mark.parametrize(
    "change",
    [
        {"passed": None},
        {"experiments": []},
        {"plan_digest": "x"},
        {"confidence": 0.0},
        {"lower_bound": -1.0},
        {"surprise": 1},
    ],
)
def test_a_result_of_another_shape_is_refused(change: dict) -> None:
    with pytest.raises(InvalidInputError, match="empirical audit is not valid"):
        _parse({**empirical_body(), **change})


def test_more_correct_guesses_than_guesses_are_refused() -> None:
    body = empirical_body()
    body["experiments"][0]["correct"] = 801
    with pytest.raises(InvalidInputError, match="correct guesses"):
        _parse(body)


def test_a_result_of_more_than_a_mebibyte_is_not_even_read() -> None:
    with pytest.raises(InvalidInputError, match="1 MiB"):
        EmpiricalResult.parse(b" " * ((1 << 20) + 1))


def test_a_result_is_read_without_torch() -> None:
    code = "import hansa.core.empirical, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
