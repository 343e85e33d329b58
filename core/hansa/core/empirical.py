"""What the empirical audit of a plan's training found: a form that anybody can read and check.

The audit attacks the training code with canaries and says how much privacy loss it could show, with
``confidence``, against what the accountant claims for that very setting. A bound above the claim
proves a fault; a bound below it proves nothing but that this attack found none.

The figures hang together, and a form that contradicts itself is refused: whoever reads ``passed``
need not trust whoever wrote it. ``recomputed_bound`` works the bounds out anew from the counts.
"""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.errors import InvalidInputError
from hansa.core.plan.part import Name, PlanPart
from hansa.core.privacy.one_run import lower_bound

MAX_RESULT_BYTES: Final = 1 << 20
AGREEMENT: Final = 1e-3
"""By so much a recomputed bound may differ from the one that is written down."""

Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Some = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Figure = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Names = Annotated[tuple[Name, ...], Field(max_length=64)]


class CanarySetting(PlanPart):
    """The test setting: what stands in the plan's place while canaries are in the data."""

    noise_multiplier: Figure
    sampling_rate: Share
    steps: Some
    """In a round."""
    rounds: Some
    bands: Some | None = None
    """Of correlated noise; absent: independent noise."""
    honest: Some | None = None
    """Shares that make up distributed noise; absent: the merchant adds it all."""


class CanaryExperiment(PlanPart):
    """One release of one model in whose training each canary took part with probability 1/2."""

    canaries_are: Name
    """``gradients``: units with orthogonal gradients; ``shoppers``: made-up shoppers."""
    setting: CanarySetting
    canaries: Some
    guesses: Some
    """Canaries of which the attack dared to say whether they were in."""
    correct: Count
    claimed_epsilon: Figure
    """By the reference accountant, for this setting."""
    lower_bound: Figure
    """Epsilon below which so many correct guesses are too unlikely; 0 shows nothing."""

    @property
    def passed(self) -> bool:
        """Whether the attack showed no more than is claimed."""
        return self.lower_bound <= self.claimed_epsilon

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if not self.correct <= self.guesses <= self.canaries:
            raise ValueError("there are at most as many correct guesses as guesses, as canaries")
        return self


class DirectCheck(PlanPart):
    """A figure of what the training releases, beside what the plan says that it is."""

    name: Name
    measured: Figure
    expected: Figure
    tolerance: Share
    """Relative; far above chance, far below any fault that matters."""

    @property
    def passed(self) -> bool:
        """Whether the two agree."""
        return abs(self.measured - self.expected) <= self.tolerance * self.expected


class MembershipInference(PlanPart):
    """How well members of a synthetic world are told from others by a model's loss alone.

    A smoke test and no evidence: a weak attack on made-up shoppers. All intervals are of 95 %.
    """

    members: Some
    non_members: Some
    steps: Some
    auc: Share
    auc_low: Share
    auc_high: Share
    tpr_at_1_percent_fpr: Share
    tpr_low: Share
    tpr_high: Share
    claimed_epsilon: Figure
    """Of this very training."""
    tpr_allowed: Share
    """The most that the claim allows at the false positives that there may have been."""

    @property
    def passed(self) -> bool:
        """Whether the claim is not refuted; more it cannot say."""
        return self.tpr_low <= self.tpr_allowed


class EmpiricalResult(PlanPart):
    """The empirical audit of one plan by one installation.

    ``claimed_epsilon`` and ``lower_bound`` are those of the experiment that came closest to a
    fault, or went furthest beyond.
    """

    form: Literal[1] = 1
    plan_digest: Sha
    code_digest: Sha
    """Of the installation that trained; see ``hansa.core.code_identity``."""
    seed: Annotated[int, Field(ge=0, le=2**53 - 1)]
    delta: Annotated[float, Field(gt=0.0, lt=0.01)]
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)]
    """That none of the lower bounds is too high, all together."""
    tries: Some
    """Among which the chance of error is shared out: numbers of guesses times experiments."""
    replaced: Names
    """What of the plan the experiments replaced by the test setting; all else is the plan's."""
    experiments: Annotated[tuple[CanaryExperiment, ...], Field(min_length=1, max_length=16)]
    checks: Annotated[tuple[DirectCheck, ...], Field(max_length=16)]
    mia: MembershipInference | None
    claimed_epsilon: Figure
    lower_bound: Figure
    passed: bool

    @model_validator(mode="after")
    def _figures_hang_together(self) -> Self:
        worst = worst_of(self.experiments)
        if (self.claimed_epsilon, self.lower_bound) != (worst.claimed_epsilon, worst.lower_bound):
            raise ValueError("claimed_epsilon and lower_bound are those of the worst experiment")
        if self.passed != all_passed(self.experiments, self.checks, self.mia):
            raise ValueError("passed contradicts the figures")
        return self

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """A result from its JSON bytes.

        Raises:
            InvalidInputError: they are none, or contradict themselves.
        """
        if len(data) > MAX_RESULT_BYTES:
            raise InvalidInputError("an empirical audit has at most 1 MiB; this is none")
        try:
            return cls.model_validate(parse_json(data, "the empirical audit"))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "its figures"
            raise InvalidInputError(
                f"the empirical audit is not valid: {where}: {first['msg']}"
            ) from error

    def to_bytes(self) -> bytes:
        """The canonical JSON form."""
        body: dict[str, Any] = self.model_dump(mode="json")
        return canonical_json(body)

    def faults(self) -> tuple[str, ...]:
        """What failed, one sentence each; none where it passed."""
        shown = [
            f"the {one.canaries_are} canaries show epsilon {one.lower_bound:.3f}, above the claim "
            f"of {one.claimed_epsilon:.3f}"
            for one in self.experiments
            if not one.passed
        ]
        shown += [
            f"{one.name} is {one.measured:.6g}, not {one.expected:.6g}"
            for one in self.checks
            if not one.passed
        ]
        if self.mia is not None and not self.mia.passed:
            shown.append("members are told from others more often than the claim allows")
        return tuple(shown)

    def wrong_bounds(self) -> tuple[int, ...]:
        """The places of experiments whose bound does not follow from their counts."""
        alpha = (1.0 - self.confidence) / self.tries
        return tuple(
            place
            for place, one in enumerate(self.experiments)
            if abs(recomputed_bound(one, self.delta, alpha) - one.lower_bound) > AGREEMENT
        )


def recomputed_bound(one: CanaryExperiment, delta: float, alpha: float) -> float:
    """The lower bound that follows from an experiment's counts at error probability ``alpha``."""
    return lower_bound(one.canaries, one.guesses, one.correct, delta=delta, alpha=alpha)


def worst_of(experiments: tuple[CanaryExperiment, ...]) -> CanaryExperiment:
    """The one whose bound lies highest above its claim, or closest below it."""
    return max(experiments, key=lambda one: one.lower_bound - one.claimed_epsilon)


def all_passed(
    experiments: tuple[CanaryExperiment, ...],
    checks: tuple[DirectCheck, ...],
    mia: MembershipInference | None,
) -> bool:
    """Whether nothing contradicts the claim."""
    shown = (*(one.passed for one in experiments), *(one.passed for one in checks))
    return all(shown) and (mia is None or mia.passed)
