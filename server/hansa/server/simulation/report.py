"""What a simulation came to. It tells of virtual merchants, and says so everywhere."""

from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hansa.server.state.runs import RoundRecord

SIMULATION = (
    "This was a simulation with virtual merchants: no merchant took part, no ledger was charged, "
    "and nothing was released."
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quality(_Part):
    """Exact recall@10 over held-out virtual shoppers; on the plane it would be noised."""

    recall_at_10: float | None
    """None where nobody was held out."""
    shoppers: int
    merchants: int
    """Virtual merchants that were asked."""


class RoundFigures(_Part):
    """One round."""

    number: int
    asked: int
    accepted: int
    refused: dict[str, int]
    """How many merchants, by reason."""
    seconds: float
    down_bytes: int
    """Bytes that each merchant would receive."""
    up_bytes: int
    """Mean bytes that each accepted merchant would send."""

    @staticmethod
    def of(record: RoundRecord) -> "RoundFigures":
        """The figures of a round's record."""
        return RoundFigures(
            number=record.number,
            asked=len(record.cohort),
            accepted=len(record.accepted),
            refused=dict(Counter(refusal.reason for refusal in record.refused.values())),
            seconds=round(record.seconds, 4),
            down_bytes=record.down_bytes,
            up_bytes=record.up_bytes,
        )


class PrivacyFigures(_Part):
    """What the plan would cost a shopper of a real merchant; nobody's ledger was charged."""

    delta: float
    epsilon_of_every_round: str
    """For a merchant that takes part in all rounds of the plan, its evaluation included."""
    most_rounds_of_one_merchant: int
    epsilon_of_most_rounds: str
    """For the virtual merchant that took part most often; its training alone."""


class SimulationReport(_Part):
    """A simulated run."""

    simulation: Literal[True] = True
    note: str = SIMULATION
    plan: str
    plan_digest: str
    """Of the plan as it was simulated, rounds and cohort included."""
    engine: Literal["local", "ray"]
    workers: int
    merchants: int
    seed: int
    data: dict[str, int | str]
    """Where the shops come from."""
    left_out: list[str]
    """Parts of the plan that a simulation does not carry out."""
    privacy: PrivacyFigures
    quality_before: Quality
    """Of the model with which the run began."""
    quality_after: Quality
    rounds: list[RoundFigures]
    public_bytes: int
    """What each merchant would receive once, before its first round."""
    set_up_s: float
    """Shops, embeddings and workers."""
    rounds_s: float
    model_sha256: str
    """Of the averaged model's content file."""
