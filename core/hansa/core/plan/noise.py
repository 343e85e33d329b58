"""How noise is shared out among the merchants, or among the steps of a round."""

from typing import Annotated

from pydantic import Field

from hansa.core.plan.part import PlanPart


class DistributedNoiseSpec(PlanPart):
    """One noise draw covers all merchants' shoppers: each merchant adds a share of it.

    The shares of the smallest honest surviving set make up the whole noise. It is the plan's quorum
    less the colluders: with fewer survivors a secure round reveals nothing.

    References:
        Kairouz, Liu, Steinke, "The distributed discrete Gaussian mechanism for federated learning
        with secure aggregation", arXiv:2102.06387.
    """

    colluders: Annotated[int, Field(ge=0, le=100_000)] = 1
    """So many of a round's survivors may work with the server: their shares do not count."""


class BandedNoiseSpec(PlanPart):
    """The noise of a round's steps is correlated, so that later steps take a part of it back.

    Units are not sampled: each belongs to one of ``bands`` groups, drawn anew for each round, which
    take turns. Step t is the turn of group ``t mod bands``. No round knows the noise of another.

    References:
        Choquette-Choo et al., "(Amplified) banded matrix factorization", arXiv:2306.08153.
    """

    bands: Annotated[int, Field(ge=2, le=1000)]
    """Groups that take turns, and steps over which noise is correlated; at most local_steps."""
