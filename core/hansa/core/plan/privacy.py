"""The public constants of the mechanism that protects a shopper."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hansa.core.plan.noise import BandedNoiseSpec, DistributedNoiseSpec
from hansa.core.plan.part import PlanPart


class PrivacySpec(PlanPart):
    """The mechanism's public constants; none of them may depend on a shop's private data."""

    later: ClassVar[frozenset[str]] = frozenset({"distributed_noise", "banded_noise"})

    unit: Literal["shopper", "record"] = "shopper"
    """Whose presence is hidden: a shopper with all its records, or a single record."""
    sampling_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    """Poisson probability that a unit takes part in a step; 1 with banded noise."""
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
    distributed_noise: DistributedNoiseSpec | None = None
    """Absent: each merchant adds the whole noise itself, and needs to trust nobody for it."""
    banded_noise: BandedNoiseSpec | None = None
    """Absent: the noise of each step is independent of that of all others."""

    @model_validator(mode="after")
    def _banded_noise_samples_nobody(self) -> "PrivacySpec":
        """Nothing is gained from sampling there, so that no plan may look as if it were."""
        if self.banded_noise is None:
            return self
        if self.distributed_noise is not None:
            raise ValueError("noise is either banded or distributed: leave one of them out")
        if self.sampling_rate != 1.0:
            raise ValueError(
                "with banded_noise all whose turn it is take part: set sampling_rate to 1.0"
            )
        return self
