"""Who takes part in a round, how long it waits, and how updates become a model."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hansa.core.errors import InvalidInputError
from hansa.core.plan.part import PlanPart
from hansa.core.secure.fixed_point import FixedPoint


class BufferSpec(PlanPart):
    """Buffered asynchronous aggregation: nobody waits for the slowest.

    A merchant gets the newest model as soon as it has answered; every ``updates`` answers make an
    aggregate, in which a stale update weighs ``(1 + staleness) ** -staleness_exponent``.

    References:
        Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, arXiv:2106.06639.
    """

    updates: Annotated[int, Field(ge=1, le=100_000)]
    """So many updates make an aggregate."""
    max_staleness: Annotated[int, Field(ge=0, le=100_000)] = 20
    """An update that began more aggregates ago than this is refused."""
    staleness_exponent: Annotated[float, Field(ge=0.0, le=10.0)] = 0.5


class QuarantineSpec(PlanPart):
    """Who fails again and again is left out for a while."""

    faults: Annotated[int, Field(ge=1, le=1000)] = 3
    """So many faults in a row (failed, rejected, or no answer) begin a quarantine."""
    rounds: Annotated[int, Field(ge=1, le=100_000)] = 10
    """It lasts so many rounds; one more fault after it begins the next."""


SUMMABLE_STRATEGIES = frozenset(
    {"FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedProx", "FedYogi"}
)
"""They need no more than the mean of the updates; all others look at single ones."""

SMALLEST_SUM = 3
"""In a sum of two, each member subtracts its own update and sees the other's."""

LARGEST_GROUP = 1000
"""Members of a secure round where the plan has no cohort: the sums must not overflow."""

LARGEST_BLOCK = 16_384
"""Members times prepared rounds: what one member deals is then at most 4 MB."""


class SecureAggregationSpec(PlanPart):
    """The server learns only the sum of the updates.

    References:
        Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning,
        CCS 2017.
    """

    later: ClassVar[frozenset[str]] = frozenset({"prepared_rounds"})

    threshold_fraction: Annotated[float, Field(gt=0.5, le=1.0)] = 0.67
    """Share of the cohort that must answer to the end; with fewer, nothing is revealed."""
    fraction_bits: Annotated[int, Field(ge=8, le=40)] = 24
    """Binary places of the fixed-point numbers in which the updates are summed."""
    max_abs: Annotated[float, Field(gt=0.0, le=1e6)] = 8.0
    """Each value of an update's difference from the model is cut to at most this."""
    prepared_rounds: Annotated[int, Field(ge=1, le=256)] = 1
    """Keys and shares are made for so many rounds at once, each with secrets of its own."""


class CodecSpec(PlanPart):
    """How arrays travel; what a merchant sends was noised before, so this is post-processing."""

    uplink_bits: Literal[4, 8, 32] = 32
    """Bits of a value of an update's difference from the model; 32 sends it as it is."""
    downlink_bits: Literal[4, 8, 32] = 32
    """Bits of a value of the model on its way to the merchants."""
    zstd: bool = False
    """Compresses what is sent where that makes it smaller."""


OptionValue = bool | int | float | str


class FederationSpec(PlanPart):
    """Who must take part, how long the others wait for them, and how updates become a model."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            "options",
            "cohort",
            "over_selection",
            "quarantine",
            "asynchronous",
            "secure_aggregation",
            "codec",
        }
    )

    strategy: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?$")] = "FedAvg"
    """A strategy of Flower's by its name, or a user's as ``module:object``."""
    options: dict[str, OptionValue] = {}  # noqa: RUF012 - a plan is frozen
    """Further arguments of the strategy, for example its server learning rate."""
    rounds: Annotated[int, Field(ge=0, le=100_000)]
    """0 trains nothing: it only asks how good the released model is now."""
    quorum: Annotated[int, Field(ge=1, le=100_000)]
    """Fewer valid updates than this fail the round."""
    deadline_s: Annotated[float, Field(gt=0.0, le=86_400.0)] = 120.0
    """Seconds after which a round closes without the missing merchants."""
    tail_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """The released model is the mean of this last share of all aggregates (post-processing)."""
    max_update_norm: Annotated[float, Field(gt=0.0)] = 1000.0
    """An update whose L2 distance from the round's model exceeds this is rejected."""
    cohort: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """A round needs so many updates and then closes; absent: it waits for everybody asked."""
    over_selection: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    """Asks this share of merchants more than the cohort, so that stragglers delay nobody."""
    quarantine: QuarantineSpec = QuarantineSpec()
    asynchronous: BufferSpec | None = None
    """Absent: rounds are synchronous."""
    secure_aggregation: SecureAggregationSpec | None = None
    """Absent: the server sees each (noised) update."""
    codec: CodecSpec = CodecSpec()

    @model_validator(mode="after")
    def _parts_fit(self) -> "FederationSpec":
        if self.cohort is not None and self.cohort < self.quorum:
            raise ValueError(f"cohort {self.cohort} is below the quorum {self.quorum}; raise it")
        if self.over_selection and self.cohort is None:
            raise ValueError("over_selection needs a cohort: say how many updates close the round")
        if self.asynchronous is not None and self.cohort is not None:
            raise ValueError("an asynchronous run has a buffer instead of a cohort: leave one out")
        if self.asynchronous is not None and self.asynchronous.updates < self.quorum:
            raise ValueError(
                f"an aggregate of {self.asynchronous.updates} updates is below the quorum "
                f"{self.quorum}; raise 'updates' or lower the quorum"
            )
        if self.asynchronous is not None and self.secure_aggregation is not None:
            raise ValueError("secure aggregation needs rounds: leave 'asynchronous' out")
        return self

    @model_validator(mode="after")
    def _sums_suffice(self) -> "FederationSpec":
        if self.secure_aggregation is None:
            return self
        if self.strategy not in SUMMABLE_STRATEGIES:
            raise ValueError(
                f"{self.strategy} needs single updates, and secure aggregation shows only their "
                f"sum: take one of {', '.join(sorted(SUMMABLE_STRATEGIES))}, or leave it out"
            )
        if self.codec.uplink_bits != 32:
            raise ValueError("secure aggregation has its own fixed-point coding: uplink_bits is 32")
        if self.quorum < SMALLEST_SUM:
            raise ValueError(
                f"secure aggregation needs a quorum of at least {SMALLEST_SUM}: in a sum of two, "
                "each member sees the other's update"
            )
        self.coding()
        self._check_block()
        return self

    def _check_block(self) -> None:
        spec, coding = self.secure_aggregation, self.coding()
        if spec is None or coding is None or spec.prepared_rounds == 1:
            return
        if coding.largest_group * spec.prepared_rounds > LARGEST_BLOCK:
            raise ValueError(
                f"{coding.largest_group} members * {spec.prepared_rounds} prepared rounds are more "
                f"than {LARGEST_BLOCK}; lower prepared_rounds, or set a smaller cohort"
            )

    def coding(self) -> FixedPoint | None:
        """The fixed-point numbers of secure sums; None without secure aggregation.

        Raises:
            ValueError: the largest sum would overflow 64 bits.
        """
        spec = self.secure_aggregation
        if spec is None:
            return None
        group = LARGEST_GROUP
        if self.cohort is not None:
            group = math.ceil(self.cohort * (1.0 + self.over_selection))
        try:
            return FixedPoint(
                fraction_bits=spec.fraction_bits, max_abs=spec.max_abs, largest_group=group
            )
        except InvalidInputError as error:
            raise ValueError(str(error)) from error
