"""The privacy plan: one object yields the mechanism and the event that it is worth.

What trains and what is booked come from the same frozen fields, so that they cannot drift apart.
Fields are public; whatever is private (the number of shoppers, records, keys) is an argument of the
method that needs it.

References:
    Jax-Privacy 2, ``DPExecutionPlan`` (the guarantee is an object).
    McMahan et al., "Learning differentially private recurrent language models", arXiv:1710.06963.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError
from hansa.core.plan import RunPlan
from hansa.core.privacy.events import NEIGHBOURS, Gaussian, PoissonGaussian, PrivacyEvent, merge
from hansa.core.privacy.mechanism import AesNormal, Entropy, choose_records, poisson_sample


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """DP-SGD per shopper: Poisson sampling, at most k records, clipping, Gaussian noise.

    With S the sum over sampled shoppers of their contributions, each clipped to ``clip_norm`` in
    L2, a step releases ``(S + noise_std * N(0, I)) / expected_shoppers``. Adding or removing one
    shopper moves S by at most ``clip_norm``; the divisor is public and does not move.
    """

    unit: Literal["shopper"]
    sampling_rate: float
    expected_shoppers: int
    """Public divisor of the noised sum; never the true number of sampled shoppers."""
    records_per_shopper: int
    clip_norm: float
    noise_multiplier: float
    evaluation_noise_multiplier: float | None
    delta: float
    local_steps: int
    """Steps in one round."""
    rounds: int
    neighbours: Literal["add_or_remove_one"] = NEIGHBOURS

    @classmethod
    def of(cls, plan: RunPlan) -> "PrivacyPlan":
        """The privacy plan of a run plan."""
        spec = plan.privacy
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
        )

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on the clipped sum, before the division."""
        return self.noise_multiplier * self.clip_norm

    def sample_shoppers(self, count: int, entropy: Entropy) -> npt.NDArray[np.int64]:
        """Indices of the shoppers of one step; private, and possibly none."""
        return poisson_sample(count, self.sampling_rate, entropy)

    def sample_records(self, count: int, entropy: Entropy) -> npt.NDArray[np.int64]:
        """Indices of one shopper's records in one step: at most k of ``count``."""
        return choose_records(count, self.records_per_shopper, entropy)

    def noise(self, size: int, stream: AesNormal) -> npt.NDArray[np.float64]:
        """The noise of one step's clipped sum, shape ``(size,)``, in the unit of the clip norm."""
        return stream.normal(size, std=self.noise_std)

    def round_event(self) -> PrivacyEvent:
        """What one merchant's training in one round releases."""
        return self._training(self.local_steps)

    def evaluation_event(self) -> PrivacyEvent | None:
        """What one noised quality report releases; none where the plan lets no metric leave.

        The report must be normalised to L2 sensitivity 1: one shopper moves the whole vector by at
        most 1.
        """
        if self.evaluation_noise_multiplier is None:
            return None
        return Gaussian(noise_multiplier=self.evaluation_noise_multiplier, releases=1)

    def run_events(self, *, evaluations: int = 1) -> tuple[PrivacyEvent, ...]:
        """What a merchant that takes part in every round releases in the whole run.

        Args:
            evaluations: noised quality reports in the run, if the plan allows any.

        Raises:
            InvalidInputError: the number of evaluations is negative.
        """
        if evaluations < 0:
            raise InvalidInputError("the number of evaluations is at least 0")
        evaluation = self.evaluation_event()
        reports = [] if evaluation is None else [evaluation] * evaluations
        steps = self.rounds * self.local_steps
        training = [self._training(steps)] if steps else []
        return merge([*training, *reports])

    def _training(self, steps: int) -> PoissonGaussian:
        return PoissonGaussian(
            sampling_rate=self.sampling_rate,
            noise_multiplier=self.noise_multiplier,
            steps=steps,
        )
