"""What one round asks of a merchant's training, as an object and as a file."""

import json
from dataclasses import dataclass, field
from typing import Final

from hansa.core.content import Content
from hansa.core.errors import InvalidInputError
from hansa.core.models.shapes import PUBLIC
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.update import Arrays

_WEIGHTS: Final = "weights"
_TASK: Final = "task"


@dataclass(frozen=True, kw_only=True)
class RoundTask:
    """What a round hands to training; nothing in it is private."""

    plan: RunPlan
    weights: Arrays = field(repr=False)
    """The round's trained arrays."""
    public: Arrays = field(repr=False)
    """The run's constants and negatives."""
    proximal_mu: float = 0.0
    """FedProx' weight; 0 where the strategy sends none."""

    def to_bytes(self) -> bytes:
        """A content file."""
        plan = json.dumps(self.plan.model_dump(mode="json"))
        return Content(
            arrays={_WEIGHTS: self.weights, PUBLIC: self.public},
            configs={_TASK: {"plan": plan, "proximal-mu": self.proximal_mu}},
        ).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "RoundTask":
        """Reads ``to_bytes``.

        Raises:
            InvalidInputError: it is no such file.
        """
        content = Content.from_bytes(data)
        try:
            settings = content.configs[_TASK]
            plan = parse_plan(json.loads(str(settings["plan"])), "the task's plan")
            return cls(
                plan=plan,
                weights=content.arrays[_WEIGHTS],
                public=content.arrays[PUBLIC],
                proximal_mu=float(str(settings["proximal-mu"])),
            )
        except (KeyError, ValueError) as error:
            raise InvalidInputError(f"this is no task of a round: {error}") from error
