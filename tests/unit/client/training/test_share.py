"""A step under distributed noise is the local step, but for whose noise it carries."""

import numpy as np
import pytest

from hansa.client.site import Site
from hansa.client.training.round import sum_round, train_round
from hansa.client.training.share import share_round
from hansa.client.workshop import open_workshop
from hansa.core.errors import InvalidInputError
from hansa.core.plan import RunPlan
from hansa.core.privacy.noise_share import NOISED_SUM, NoiseShare, mean_step
from hansa.core.secure.vector import moved
from tests.fakes.entropy import SeededEntropy
from tests.fakes.tiny_site import tiny_plan, tiny_site, tiny_task


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return tiny_site(tmp_path_factory.mktemp("world"))


def shared_plan(trains: str, noise_multiplier: float) -> RunPlan:
    body = tiny_plan(trains, devices=1, steps=1, rate=1.0).model_dump(mode="json")
    body["privacy"] |= {"noise_multiplier": noise_multiplier, "distributed_noise": {"colluders": 1}}
    secure = {"fraction_bits": 40, "max_abs": 64.0}
    body["federation"] |= {"quorum": 3, "cohort": 3, "secure_aggregation": secure}
    return RunPlan.model_validate(body)


def local(plan: RunPlan) -> RunPlan:
    privacy = plan.privacy.model_copy(update={"distributed_noise": None})
    return plan.model_copy(update={"privacy": privacy})


@pytest.mark.parametrize("trains", ["tower", "lora", "full"])
def test_almost_without_noise_the_server_takes_the_step_that_the_merchant_would(
    trains: str, site: Site
) -> None:
    plan = shared_plan(trains, 1e-7)
    workshop, entropy = open_workshop(site, plan), SeededEntropy(4)
    alone = train_round(tiny_task(local(plan), site), workshop, SeededEntropy(4))
    entropy.random_bytes(48)  # the local step's noise stream has a key and a nonce
    task = tiny_task(plan, site)
    integers = share_round(task, workshop, entropy)[NOISED_SUM]
    bits = plan.federation.secure_aggregation.fraction_bits  # type: ignore[union-attr]
    after = moved(task.weights, mean_step(plan, integers * 2.0**-bits, 1))
    assert list(after) == list(alone)
    for name, array in after.items():
        np.testing.assert_allclose(array, alone[name], atol=1e-5)


def test_what_leaves_training_differs_from_the_sum_by_the_share_of_the_noise(site: Site) -> None:
    plan = shared_plan("tower", 4.0)
    workshop, task = open_workshop(site, plan), tiny_task(plan, site)
    total = sum_round(task, workshop, SeededEntropy(7))
    share = NoiseShare.of(plan, total.size)
    noise = share_round(task, workshop, SeededEntropy(7))[NOISED_SUM] - share.on_grid(total)
    assert noise.std() == pytest.approx(share.share_sigma, rel=0.25)


def test_without_distributed_noise_no_share_is_made(site: Site) -> None:
    plan = local(shared_plan("tower", 4.0))
    with pytest.raises(InvalidInputError, match="distributed noise"):
        share_round(tiny_task(plan, site), open_workshop(site, plan), SeededEntropy())
