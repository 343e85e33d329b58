import io

import pytest
from rich.console import Console

from hansa.client.empirical import __main__ as process
from hansa.client.empirical_cli import show
from hansa.core.empirical import EmpiricalResult
from tests.fakes.empirical_results import empirical_body


def _shown(body: dict) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(EmpiricalResult.model_validate(body), console)
    return console.file.getvalue()


def test_people_see_bound_claim_and_what_it_does_not_show() -> None:
    text = _shown(empirical_body())
    assert "460 of 800" in text
    assert "0.93" in text
    assert "cannot show that there is no fault" in text
    assert text.endswith("Passed.\n")


def test_people_see_what_failed() -> None:
    body = empirical_body()
    body["checks"][0]["measured"] = 0.25
    text = _shown({**body, "passed": False})
    assert "0.25 for 1, NOT as the plan says" in text
    assert text.endswith("FAILED.\n")


def test_a_plan_that_cannot_be_read_ends_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert process.main(["no-such-plan.json"]) == 2
    assert "cannot read the plan" in capsys.readouterr().err
