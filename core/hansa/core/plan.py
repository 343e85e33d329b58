"""The run plan: everything that a round will do, written down before it starts.

A plan is public. The operator signs its canonical form, every client checks the signature before it
works, and every ledger entry and release names its digest.
"""

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from hansa.core.canonical import digest
from hansa.core.errors import InvalidInputError
from hansa.core.ids import Sha256
from hansa.core.secure.fixed_point import FixedPoint

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class PlanPart(BaseModel):
    """A frozen piece of a plan; unknown fields are refused.

    A field that came later than version 1.0 of the wire is written only where it says something
    else than its default: so a plan that needs nothing new keeps its digest in every ledger and
    pack, and a client of the previous version can read it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _leave_out_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        unsaid = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in body.items() if name not in unsaid}


class ModelSpec(PlanPart):
    """Which public, pre-trained encoder is the backbone."""

    base: Name = "minilm"
    """A name that client and server each map to a local Hugging Face folder; never a download."""
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 32
    """Texts are cut after so many tokens."""


class TaskSpec(PlanPart):
    """What is learnt, from which records, and what is kept aside to judge it."""

    kind: Literal["recommend"] = "recommend"
    cold_item_fraction: Fraction = 0.2
    """Share of items, by a public hash of the item's key, that no training ever sees."""
    held_out_shopper_fraction: Fraction = 0.25
    """Share of shoppers, by hash, on whom releases are judged and nothing is trained."""
    min_history_items: Annotated[int, Field(ge=1, le=1000)] = 2
    """A shopper with fewer distinct known items takes no part."""


class TrainingSpec(PlanPart):
    """How a merchant turns its records into an update."""

    later: ClassVar[frozenset[str]] = frozenset({"devices"})

    trains: Literal["tower", "lora"] = "tower"
    """``tower``: a low-rank tower on frozen embeddings; ``lora``: adapters inside the encoder."""
    rank: Annotated[int, Field(ge=1, le=512)] = 64
    local_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Optimiser steps that each merchant takes in one round."""
    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 0.1
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 0.05
    """The softmax divides similarities by this."""
    negatives: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Items of the public catalogue set against each target."""
    devices: Annotated[int, Field(ge=1, le=64)] = 1
    """With more than one, a merchant trains under ``torchrun``, a process for each device."""


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


class SecureAggregationSpec(PlanPart):
    """The server learns only the sum of the updates.

    References:
        Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning,
        CCS 2017.
    """

    threshold_fraction: Annotated[float, Field(gt=0.5, le=1.0)] = 0.67
    """Share of the cohort that must answer to the end; with fewer, nothing is revealed."""
    fraction_bits: Annotated[int, Field(ge=8, le=40)] = 24
    """Binary places of the fixed-point numbers in which the updates are summed."""
    max_abs: Annotated[float, Field(gt=0.0, le=1e6)] = 8.0
    """Each value of an update's difference from the model is cut to at most this."""


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
    options: dict[str, OptionValue] = {}
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
        return self

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


class CompressionSpec(PlanPart):
    """What a released model must keep to; a candidate outside these limits is not released."""

    max_size_bytes: Annotated[int, Field(ge=1)] = 40_000_000
    min_cosine: Fraction = 0.98
    """Mean cosine between the released embeddings and the fp32 teacher's."""
    max_ndcg_loss: Fraction = 0.05
    """nDCG@10 that the released model may lose against the teacher's own ranking."""


class RunPlan(PlanPart):
    """One run: model, task, training, privacy, rounds, limits."""

    later: ClassVar[frozenset[str]] = frozenset({"begins_with"})

    name: Name
    model: ModelSpec = ModelSpec()
    task: TaskSpec = TaskSpec()
    training: TrainingSpec = TrainingSpec()
    privacy: PrivacySpec
    federation: FederationSpec
    begins_with: Literal["base-model", "last-release"] = "base-model"
    """``last-release`` goes on from the model that was released last, so that runs form a chain."""
    compression: CompressionSpec | None = CompressionSpec()
    """Absent: the run ends with its aggregate and releases nothing."""

    @model_validator(mode="after")
    def _release_needs_a_servable_model(self) -> "RunPlan":
        if self.compression is not None and self.training.trains != "tower":
            raise ValueError(
                "only a tower run can be released yet: set 'compression: null' for lora"
            )
        if self.federation.rounds == 0:
            return self._watches()
        if self.privacy.evaluation_noise_multiplier is not None and self.compression is None:
            raise ValueError(
                "only a run that releases is evaluated: leave evaluation_noise_multiplier out"
            )
        return self

    def _watches(self) -> "RunPlan":
        """A plan without rounds asks how good the released model is, and does nothing else."""
        if self.privacy.evaluation_noise_multiplier is None:
            raise ValueError("a plan of 0 rounds needs evaluation_noise_multiplier to ask anything")
        if self.begins_with != "last-release" or self.compression is not None:
            raise ValueError(
                "a plan of 0 rounds asks about the last release: set 'begins_with: last-release' "
                "and 'compression: null'"
            )
        return self

    @property
    def digest(self) -> Sha256:
        """The SHA-256 digest by which ledgers, rounds and releases name this plan."""
        return digest(self.model_dump(mode="json"))


def parse_plan(value: Any, what: str) -> RunPlan:
    """A plan from parsed YAML or JSON; ``what`` names the source in the error.

    Raises:
        InvalidInputError: a field is missing, unknown or out of bounds; the sentence names it.
    """
    try:
        return RunPlan.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the plan"
        raise InvalidInputError(f"{what}: {where}: {first['msg']}; mend this field") from error


def read_plan(path: Path) -> RunPlan:
    """The plan in a YAML file.

    Raises:
        InvalidInputError: the file cannot be read, is not YAML, or is not a plan.
    """
    return parse_plan(read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """What a plan's YAML file holds.

    Raises:
        InvalidInputError: the file cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInputError(f"cannot read the plan {path}: {error}") from error
