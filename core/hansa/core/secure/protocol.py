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

References:
    Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017
    (the variant against an active server, figure 4).
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from hansa.core.canonical import canonical_json
from hansa.core.errors import InvalidInputError
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

    @staticmethod
    def of(plan: RunPlan, run: RunId, round_number: int) -> "Setting":
        """The setting of a plan's round.

        Raises:
            InvalidInputError: the plan does not ask for secure aggregation.
        """
        spec, coding = plan.federation.secure_aggregation, plan.federation.coding()
        if spec is None or coding is None:
            raise InvalidInputError("the plan does not ask for secure aggregation")
        return Setting(
            run=run,
            round_number=round_number,
            plan_digest=plan.digest,
            threshold_fraction=spec.threshold_fraction,
            quorum=plan.federation.quorum,
            coding=coding,
        )

    @property
    def context(self) -> bytes:
        """Names the round; the plan's digest stands for all further terms."""
        return canonical_json([str(self.run), self.round_number, str(self.plan_digest)])

    def threshold(self, members: int) -> int:
        """How many of ``members`` must answer: always more than half, so no two lists both can."""
        share = Fraction(str(self.threshold_fraction)) * members
        return max(-(-share.numerator // share.denominator), members // 2 + 1, self.quorum)
