"""A merchant's part of one step under distributed noise."""

from hansa.client.training.round import SiteData, sum_round
from hansa.client.training.round_task import RoundTask
from hansa.core.privacy.mechanism import AesNormal, Entropy
from hansa.core.privacy.noise_share import NOISED_SUM, NoiseShare
from hansa.core.update import Arrays


def share_round(task: RoundTask, site: SiteData, entropy: Entropy) -> Arrays:
    """The clipped sum of the round's one step with this merchant's share of the noise.

    Args:
        task: what the round asks for, under a plan with distributed noise.
        site: the merchant's data; private.
        entropy: cryptographic.

    Returns:
        One array of integers; it is noised too little to leave but within a secure sum.

    Raises:
        InvalidInputError: the weights are not those of the plan's model, or the plan's sums cannot
            hold its noise.
    """
    size = sum(array.size for array in task.weights.values())
    share = NoiseShare.of(task.plan, size)
    total = sum_round(task, site, entropy)
    return {NOISED_SUM: share.integers(total, AesNormal.fresh(entropy))}
