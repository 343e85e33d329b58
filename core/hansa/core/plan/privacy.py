"""The public constants of the mechanism that protects a shopper."""

from typing import Annotated, Literal

from pydantic import Field

from hansa.core.plan.part import PlanPart


class PrivacySpec(PlanPart):
    """The mechanism's public constants; none of them may depend on a shop's private data."""

    unit: Literal["shopper"] = "shopper"
    sampling_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    """Poisson probability that a shopper takes part in a step."""
    expected_shoppers: Annotated[int, Field(ge=1, le=1_000_000)]
    """The public divisor of the noised sum."""
    records_per_shopper: Annotated[int, Field(ge=1, le=10_000)] = 8
    """At most so many records of one shopper enter a step."""
    clip_norm: Annotated[float, Field(gt=0.0, le=1000.0)] = 1.0
    """L2 bound of one shopper's contribution."""
    noise_multiplier: Annotated[float, Field(gt=0.0, le=1000.0)]
    """Standard deviation of the noise divided by the clip norm."""
    evaluation_noise_multiplier: Annotated[float, Field(gt=0.0, le=1000.0)] | None = None
    """Noise on the released quality counts; absent: no metric ever leaves a merchant."""
    delta: Annotated[float, Field(gt=0.0, lt=0.01)] = 1e-5
