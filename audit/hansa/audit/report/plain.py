"""What epsilon and delta mean for somebody who tries to find out whether a person is in the data.

Between two neighbouring data sets an (epsilon, delta)-private release lets any test that raises a
false alarm with probability f find a person that is there with probability at most
``min(exp(epsilon) f + delta, 1 - exp(-epsilon) (1 - delta - f))``.

References:
    Wasserman and Zhou, "A statistical framework for differential privacy", arXiv:0811.2501.
    Kairouz, Oh, Viswanath, "The composition theorem for differential privacy", arXiv:1311.0776.
    Ponomareva et al., "How to DP-fy ML", arXiv:2303.00654, section 5.2.1 (the three bands).
"""

import math
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

Band = Literal["strong", "reasonable", "weak"]

FALSE_ALARMS: Final = (0.01, 0.1)
_STRONG: Final = 1.0
_REASONABLE: Final = 10.0


class Meaning(BaseModel):
    """The guarantee in terms of an attacker who knows everything else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: float
    delta: float
    band: Band
    odds_factor: float
    """By so much the odds of "the person is in the data" may grow, but for delta; ``inf`` never."""
    right_guesses: float
    """Most right guesses, as a share, where half of the persons are in the data."""
    found_at: dict[str, float]
    """False alarms (share, as text) to the share of persons that may be found at most."""


def meaning_of(epsilon: float, delta: float) -> Meaning:
    """The bounds for an attacker against one person."""
    odds = math.exp(min(epsilon, 700.0))
    return Meaning(
        epsilon=epsilon,
        delta=delta,
        band=_band(epsilon),
        odds_factor=odds,
        right_guesses=min(1.0, (odds + delta) / (1.0 + odds)),
        found_at={f"{alarms:g}": found(epsilon, delta, alarms) for alarms in FALSE_ALARMS},
    )


def found(epsilon: float, delta: float, false_alarms: float) -> float:
    """The largest share of persons that a test with so many false alarms can find."""
    odds = math.exp(min(epsilon, 700.0))
    return min(1.0, odds * false_alarms + delta, 1.0 - (1.0 - delta - false_alarms) / odds)


def _band(epsilon: float) -> Band:
    if epsilon <= _STRONG:
        return "strong"
    return "reasonable" if epsilon <= _REASONABLE else "weak"
