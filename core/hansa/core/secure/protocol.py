"""The protocol's five stages, and what everybody must have agreed on before the first.

====  ===========  =======================================  =====================================
      stage        the server sends                         a member answers
====  ===========  =======================================  =====================================
1     keys         that a round begins                      fresh public keys, signed
2     shares       the roster: everybody's keys             a sealed share of its secrets for each
3     train        the model, and who gave shares           its masked update
4     survivors    whose masked update arrived              its signature over that list
5     unmask       the list with enough signatures          for each, a share of one secret
====  ===========  =======================================  =====================================

A member's update is hidden by a mask with each other member, which cancels in the sum, and by a
mask of its own. For a member of the list the others help to remove its own mask; for one that
dropped out after stage 2, its masks with the others. Both together would bare its update: so a
member gives shares for one list only, and only when at least the threshold signed the same list.

The first two stages touch neither data nor model. A plan may have them done once for a block of
rounds (``prepared_rounds``): then every member has for each of these rounds a masking key and a
seed of its own, with shares and commitments of their own, and the other three stages take place in
each round. Every key, commitment and ballot is bound to its round, so that a block is as many
independent rounds of the same members: what is revealed in one says nothing about another.

References:
    Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017
    (the variant against an active server, figure 4).
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from hansa.core.canonical import canonical_json
from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.ids import RunId, Sha256
from hansa.core.plan import RunPlan
from hansa.core.secure.fixed_point import FixedPoint

KEYS: Final = "keys"
SHARES: Final = "shares"
TRAIN: Final = "train"
SURVIVORS: Final = "survivors"
UNMASK: Final = "unmask"

STAGES: Final = (KEYS, SHARES, TRAIN, SURVIVORS, UNMASK)
LIGHT_STAGES: Final = frozenset(STAGES) - {TRAIN}
"""These touch no data: nothing is reserved for them, and nothing committed."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One round under one plan; every signature and key of the round is bound to it."""

    run: RunId
    round_number: int
    plan_digest: Sha256
    threshold_fraction: float
    """Share of the roster that must answer to the end; above one half."""
    quorum: int
    """A sum of fewer is never revealed."""
    coding: FixedPoint
    at: int = 0
    """Which round of its block this is, from 0."""
    rounds: int = 1
    """Rounds of the block."""

    @staticmethod
    def of(plan: RunPlan, run: RunId, round_number: int) -> "Setting":
        """The setting of a plan's round.

        Raises:
            InvalidInputError: the plan does not ask for secure aggregation.
        """
        spec, coding = plan.federation.secure_aggregation, plan.federation.coding()
        if spec is None or coding is None:
            raise InvalidInputError("the plan does not ask for secure aggregation")
        at = (round_number - 1) % spec.prepared_rounds
        left = plan.federation.rounds - (round_number - at) + 1
        return Setting(
            at=at,
            rounds=max(1, min(spec.prepared_rounds, left)),
            run=run,
            round_number=round_number,
            plan_digest=plan.digest,
            threshold_fraction=spec.threshold_fraction,
            quorum=plan.federation.quorum,
            coding=coding,
        )

    @property
    def first_round(self) -> int:
        """The round of the block in which keys and shares are exchanged."""
        return self.round_number - self.at

    @property
    def is_last(self) -> bool:
        """Whether the block ends with this round."""
        return self.at + 1 >= self.rounds

    def turn(self, at: int) -> "Setting":
        """Another round of the same block, counted from 0."""
        return replace(self, at=at, round_number=self.first_round + at)

    def check_begins(self) -> None:
        """Accepts the first round of a block only.

        Raises:
            ConflictError: keys and shares were exchanged in an earlier round.
        """
        if self.at:
            raise ConflictError(
                f"round {self.round_number} has the keys and shares of round {self.first_round}; "
                "they are not given twice"
            )

    @property
    def context(self) -> bytes:
        """Names the block; the plan's digest stands for all further terms."""
        names = [str(self.run), self.first_round, str(self.plan_digest)]
        return canonical_json(names if self.rounds == 1 else [*names, self.rounds])

    def threshold(self, members: int) -> int:
        """How many of ``members`` must answer: always more than half, so no two lists both can."""
        share = Fraction(str(self.threshold_fraction)) * members
        return max(-(-share.numerator // share.denominator), members // 2 + 1, self.quorum)
