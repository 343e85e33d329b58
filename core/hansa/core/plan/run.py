"""One run's plan, and how it is read."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from hansa.core.canonical import digest
from hansa.core.errors import InvalidInputError
from hansa.core.ids import Sha256
from hansa.core.plan.federation import FederationSpec
from hansa.core.plan.part import Fraction, Name, PlanPart
from hansa.core.plan.privacy import PrivacySpec
from hansa.core.plan.training import ModelSpec, TaskSpec, TrainingSpec


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
                "only a tower run can be released yet: set 'compression: null' for "
                f"{self.training.trains}"
            )
        if self.federation.rounds == 0:
            return self._watches()
        if self.privacy.evaluation_noise_multiplier is not None and self.compression is None:
            raise ValueError(
                "only a run that releases is evaluated: leave evaluation_noise_multiplier out"
            )
        return self

    @model_validator(mode="after")
    def _records_stand_alone(self) -> "RunPlan":
        """A purchase that lifts a shopper over a higher bar would bring all its others along."""
        if self.privacy.unit == "record" and self.task.min_history_items > 2:
            raise ValueError("with unit 'record' set task.min_history_items to at most 2")
        return self

    @model_validator(mode="after")
    def _noise_can_be_distributed(self) -> "RunPlan":
        """Each step is a secure round of its own; only its sum is noised enough to be shown."""
        spec, federation = self.privacy.distributed_noise, self.federation
        if spec is None:
            return self
        if federation.secure_aggregation is None:
            raise ValueError("distributed_noise needs federation.secure_aggregation: set it")
        if self.training.local_steps != 1 or self.training.devices != 1:
            raise ValueError(
                "with distributed_noise each step is a round: set local_steps and devices to 1"
            )
        if self.training.optimizer != "sgd" or self.training.weight_decay:
            raise ValueError(
                "with distributed_noise the server takes the step: set optimizer to sgd without "
                "weight_decay, and choose a strategy such as FedAdam for its momentum"
            )
        if federation.quorum - spec.colluders < 1:
            raise ValueError(
                f"a quorum of {federation.quorum} with {spec.colluders} colluders leaves no honest "
                "share of the noise: raise the quorum or lower the colluders"
            )
        return self

    @model_validator(mode="after")
    def _every_group_has_its_turn(self) -> "RunPlan":
        """A round with fewer steps than bands would leave some units out of it."""
        spec = self.privacy.banded_noise
        if spec is not None and spec.bands > self.training.local_steps:
            raise ValueError(
                "banded_noise needs at least as many local_steps as bands: "
                f"{self.training.local_steps} steps cannot have {spec.bands} bands"
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
