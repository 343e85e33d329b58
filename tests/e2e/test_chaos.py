"""A short run under chaos; the long one is ``make chaos``."""

import sys
from pathlib import Path

import pytest
from benchmarks.federation_parts.chaos import Storm, Weather

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(600)
def test_whatever_breaks_no_update_is_lost_and_no_epsilon_is_charged_wrongly(
    tmp_path: Path,
) -> None:
    """The seed is fixed, what the blows meet is not; the promises hold whatever they meet."""
    weather = Weather(rounds=6, clients=4, seed=1)
    result = Storm(tmp_path / "storm", weather).run()
    sys.stdout.write(f"{result}\n")
    assert result["findings"] == []
    assert (result["ended"], result["rounds"], result["wedged"]) == ("completed", 6, 0)
    assert (result["lost_updates"], result["wrong_charges"]) == (0, 0)
    assert result["final_equal"] is True
    assert result["gave_up"] == []
    assert result["kills"] >= 1
