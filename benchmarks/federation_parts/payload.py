"""The models of the benchmarks, and the deterministic work of their clients.

A payload is named by the plan's base model, so that one server and one client serve all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hansa.client.entropy import SystemEntropy
from hansa.core.content import Content
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.mechanism import AesNormal
from hansa.core.privacy.noise_share import NOISED_SUM, NoiseShare
from hansa.core.update import Arrays

SEED = 20_231


@dataclass(frozen=True, kw_only=True)
class Payload:
    """A model of equal float32 arrays."""

    arrays: int
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all values together."""
        return int(4 * self.arrays * np.prod(self.shape))

    def model(self) -> Arrays:
        """Normal random values, always the same: nothing that compresses or is shared."""
        rng = np.random.default_rng(SEED)
        return {
            f"layer-{number:03d}": rng.standard_normal(self.shape, np.float32)
            for number in range(self.arrays)
        }


PAYLOADS: Mapping[str, Payload] = {
    "small": Payload(arrays=100, shape=(2_500,)),
    "full": Payload(arrays=100, shape=(225_000,)),
    "lora": Payload(arrays=24, shape=(8, 384)),
    "chaos": Payload(arrays=12, shape=(32, 1_024)),
    "tower-25": Payload(arrays=2, shape=(64, 50)),
    "tower-600": Payload(arrays=2, shape=(200, 375)),
}
"""1 MB, 90 MB, 0.3 MB (74k parameters: two rank-8 adapters in each of 12 layers), 1.6 MB, and
towers of 25 and 600 KB."""


def bench_plan(
    payload: str, distributed_noise: dict[str, object] | None = None, **federation: object
) -> RunPlan:
    """A plan over a payload; a round costs an epsilon of about 0.001, so that many can be run."""
    limits: dict[str, object] = {
        "rounds": 1,
        "quorum": 1,
        "deadline_s": 600.0,
        "max_update_norm": 1e6,
        "tail_fraction": 0.01,
        **federation,
    }
    privacy: dict[str, object] = {
        "sampling_rate": 0.01,
        "expected_shoppers": 100,
        "noise_multiplier": 100.0,
    }
    if distributed_noise is not None:
        privacy = {**privacy, "distributed_noise": distributed_noise}
    plan = {
        "name": f"bench-{payload}",
        "model": {"base": payload},
        "federation": limits,
        "compression": None,
        "privacy": privacy,
    }
    return parse_plan(plan, "the benchmark's plan")


def step_of(merchant: str, round_number: int) -> np.float32:
    """What a merchant adds to every value in a round: exact in float32, and never zero.

    The names of the benchmarks' merchants end in their number.
    """
    number = int(merchant.rpartition("-")[2])
    return np.float32((1 + number) * (1 + round_number % 7) / 4096)


def trained(model: Arrays, merchant: str, round_number: int) -> Arrays:
    """The update: a function of model, merchant and round alone, so that it can be made again."""
    step = step_of(merchant, round_number)
    return {name: array + step for name, array in model.items()}


def reply(model: Arrays, merchant: str, round_number: int) -> bytes:
    """The update as the content file that leaves the merchant."""
    arrays = trained(model, merchant, round_number)
    return Content(arrays={"arrays": arrays}, metrics={"metrics": {"num-examples": 1}}).to_bytes()


def noised_reply(plan: RunPlan, model: Arrays) -> bytes:
    """A step's sum of ones with its share of the noise, as the app of such a plan returns it."""
    size = sum(array.size for array in model.values())
    stream = AesNormal.fresh(SystemEntropy())
    steps = NoiseShare.of(plan, size).integers(np.ones(size), stream)
    content = {"arrays": {NOISED_SUM: steps}}
    return Content(arrays=content, metrics={"metrics": {"num-examples": 1}}).to_bytes()
