"""The privacy plan: one object yields the mechanism and the event that it is worth.

What trains and what is booked come from the same frozen fields, so that they cannot drift apart.
Fields are public; whatever is private (the number of shoppers, records, keys) is an argument of the
method that needs it.

Three mechanisms are there. By default a merchant adds the whole noise to each step of its own. With
``bands`` the noise of a round's steps is correlated, and units take turns instead of being sampled.
With ``honest`` the merchants share one noise draw a step, by secure aggregation.

References:
    Jax-Privacy 2, ``DPExecutionPlan`` (the guarantee is an object).
    McMahan et al., "Learning differentially private recurrent language models", arXiv:1710.06963.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError
from hansa.core.plan import RunPlan
from hansa.core.privacy.banded import BandedNoise, most_participations
from hansa.core.privacy.events import (
    NEIGHBOURS,
    BandedGaussian,
    DistributedGaussian,
    Gaussian,
    PoissonGaussian,
    PrivacyEvent,
    Unit,
    merge,
)
from hansa.core.privacy.groups import epsilon_of_group
from hansa.core.privacy.mechanism import AesNormal, Entropy, choose_records
from hansa.core.privacy.noise import IndependentNoise, NoiseStream
from hansa.core.privacy.sampling import CyclicSampler, PoissonSampler, UnitSampler

TRAIN: Final = "train"
EVALUATE: Final = "evaluate"


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """DP-SGD per unit: sampling, at most k records of a shopper, clipping, Gaussian noise.

    With S the sum over sampled units of their contributions, each clipped to ``clip_norm`` in L2, a
    step releases ``(S + noise) / expected_shoppers``. Adding or removing one unit moves S by at
    most ``clip_norm``; the divisor is public and does not move.
    """

    unit: Unit
    sampling_rate: float
    expected_shoppers: int
    """Public divisor of the noised sum; never the true number of sampled units."""
    records_per_shopper: int
    clip_norm: float
    noise_multiplier: float
    """With distributed noise: what the honest shares guarantee by themselves."""
    evaluation_noise_multiplier: float | None
    delta: float
    local_steps: int
    """Steps in one round."""
    rounds: int
    neighbours: Literal["add_or_remove_one"] = NEIGHBOURS
    bands: int | None = None
    """Of the matrix that correlates the noise of a round's steps; absent: independent noise."""
    honest: int | None = None
    """Honest noise shares that distributed noise counts on; absent: each merchant adds it all."""

    @classmethod
    def of(cls, plan: RunPlan) -> "PrivacyPlan":
        """The privacy plan of a run plan."""
        spec = plan.privacy
        shared, banded = spec.distributed_noise, spec.banded_noise
        return cls(
            unit=spec.unit,
            sampling_rate=spec.sampling_rate,
            expected_shoppers=spec.expected_shoppers,
            records_per_shopper=spec.records_per_shopper,
            clip_norm=spec.clip_norm,
            noise_multiplier=spec.noise_multiplier,
            evaluation_noise_multiplier=spec.evaluation_noise_multiplier,
            delta=spec.delta,
            local_steps=plan.training.local_steps,
            rounds=plan.federation.rounds,
            bands=None if banded is None else banded.bands,
            honest=None if shared is None else plan.federation.quorum - shared.colluders,
        )

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on the clipped sum, before the division.

        With banded noise it is that of the noise before the matrix correlates it.
        """
        return self.noise_multiplier * self.clip_norm

    def sampler(self, entropy: Entropy) -> UnitSampler:
        """What draws the units of one round's steps; make a new one for each round."""
        if self.bands is not None:
            return CyclicSampler(entropy, groups=self.bands, steps=self.local_steps)
        return PoissonSampler(entropy, rate=self.sampling_rate)

    def sample(self, count: int, step: int, entropy: Entropy) -> npt.NDArray[np.int64]:
        """Indices of the units of one step, where no step depends on another; private.

        Raises:
            InvalidInputError: units take turns, so that only ``sampler`` can draw them.
        """
        self._needs_no_turns()
        return self.sampler(entropy).sample(count, step)

    def sample_records(self, count: int, entropy: Entropy) -> npt.NDArray[np.int64]:
        """Indices of one shopper's records in one step: at most k of ``count``."""
        return choose_records(count, self.records_per_shopper, entropy)

    def noise_stream(self, stream: AesNormal) -> NoiseStream:
        """The noise of one round's steps; make a new one, from a fresh stream, for each round."""
        if self.bands is not None:
            return BandedNoise(stream, bands=self.bands, steps=self.local_steps, std=self.noise_std)
        return IndependentNoise(stream, std=self.noise_std)

    def events_for(self, phase: str) -> tuple[PrivacyEvent, ...]:
        """What one task of a phase costs; the one place that client, server and auditor ask.

        Raises:
            InvalidInputError: the plan lets no metric leave, or nobody knows the phase's cost.
        """
        if phase == TRAIN:
            return (self.round_event(),)
        if phase != EVALUATE:
            raise InvalidInputError(f"what a task of phase {phase!r} costs is not known; refuse it")
        event = self.evaluation_event()
        if event is None:
            raise InvalidInputError("the plan lets no metric leave")
        return (event,)

    def round_event(self) -> PrivacyEvent:
        """What one merchant's training in one round releases."""
        return self._training(1)

    def evaluation_event(self) -> PrivacyEvent | None:
        """What one noised quality report releases; none where the plan lets no metric leave.

        The report must be normalised to L2 sensitivity 1: one shopper moves the whole vector by at
        most 1. So does one record.
        """
        if self.evaluation_noise_multiplier is None:
            return None
        return Gaussian(
            unit=self.unit, noise_multiplier=self.evaluation_noise_multiplier, releases=1
        )

    def training_events(self) -> tuple[PrivacyEvent, ...]:
        """What a merchant that takes part in every round releases by training."""
        return (self._training(self.rounds),) if self.rounds else ()

    def run_events(self, *, evaluations: int = 1) -> tuple[PrivacyEvent, ...]:
        """What a merchant that takes part in every round releases in the whole run.

        Args:
            evaluations: noised quality reports in the run, if the plan allows any.

        Raises:
            InvalidInputError: the number of evaluations is negative.
        """
        return merge([*self.training_events(), *self._reports(evaluations)])

    def shopper_epsilon(self, *, merchants: int = 1, evaluations: int = 1) -> float:
        """Epsilon of one shopper with data at so many merchants, over the whole run.

        Infinite where no figure is worth its computation; see ``epsilon_of_group``.

        For the unit ``record`` the shopper has ``records_per_shopper`` records at each of them.
        Merchants that add their own noise compose; where they share one draw, all that the shopper
        holds anywhere may enter the same sum.

        Raises:
            InvalidInputError: the number of merchants is below 1.
        """
        if merchants < 1:
            raise InvalidInputError("a shopper is known to at least 1 merchant")
        records = self.records_per_shopper if self.unit == "record" else 1
        reports = self._reports(evaluations) * merchants
        if self.honest is not None:
            return epsilon_of_group(
                self.training_events(), records * merchants, self.delta, besides=reports
            )
        training = self.training_events() * merchants
        return epsilon_of_group(training, records, self.delta, besides=reports)

    def _reports(self, count: int) -> tuple[PrivacyEvent, ...]:
        if count < 0:
            raise InvalidInputError("the number of evaluations is at least 0")
        evaluation = self.evaluation_event()
        return () if evaluation is None else (evaluation,) * count

    def _training(self, rounds: int) -> PrivacyEvent:
        steps = rounds * self.local_steps
        if self.bands is not None:
            return BandedGaussian(
                unit=self.unit,
                bands=self.bands,
                noise_multiplier=self.noise_multiplier,
                steps=self.local_steps,
                participations=most_participations(self.bands, self.local_steps),
                releases=rounds,
            )
        if self.honest is not None:
            return DistributedGaussian(
                unit=self.unit,
                sampling_rate=self.sampling_rate,
                noise_multiplier=self.noise_multiplier,
                steps=steps,
                honest=self.honest,
            )
        return PoissonGaussian(
            unit=self.unit,
            sampling_rate=self.sampling_rate,
            noise_multiplier=self.noise_multiplier,
            steps=steps,
        )

    def _needs_no_turns(self) -> None:
        if self.bands is not None:
            raise InvalidInputError(
                "with banded noise units take turns: draw a round's steps from sampler()"
            )
