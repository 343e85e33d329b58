import numpy as np
import pytest
import torch

from hansa.client.training.clipping import clipped_sum
from hansa.client.training.loss import padded_targets, shopper_losses
from hansa.client.training.samples import ShopData, Units
from hansa.client.training.tower import train_tower
from hansa.core.errors import InvalidInputError
from hansa.core.models.tower import Floats, Tower
from hansa.core.plan import RunPlan
from hansa.core.privacy.plan import PrivacyPlan
from tests.fakes.entropy import SeededEntropy

ITEMS, DIM, RANK = 40, 8, 3


def _plan(
    noise: float = 1.0, rate: float = 1.0, steps: int = 1, learning_rate: float = 1.0
) -> RunPlan:
    return RunPlan.model_validate(
        {
            "name": "test",
            "training": {"rank": RANK, "local_steps": steps, "learning_rate": learning_rate},
            "privacy": {
                "sampling_rate": rate,
                "expected_shoppers": 4,
                "records_per_shopper": 3,
                "noise_multiplier": noise,
            },
            "federation": {"rounds": 1, "quorum": 1},
        }
    )


def _vectors(seed: int) -> Floats:
    vectors = np.random.default_rng(seed).standard_normal((ITEMS, DIM))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _data(shoppers: int = 6) -> ShopData:
    rng = np.random.default_rng(5)
    bought = tuple(np.sort(rng.choice(ITEMS, 7, replace=False)) for _ in range(shoppers))
    return ShopData(shoppers=bought, embeddings=_vectors(1), negatives=_vectors(2))


def _weights() -> dict[str, Floats]:
    return Tower.initial(_vectors(2), RANK).arrays()


def _step(weights: dict[str, Floats], after: dict[str, Floats]) -> Floats:
    return np.concatenate([(after[n] - weights[n]).ravel() for n in ("weight", "bias")])


def _expected(data: ShopData, plan: RunPlan) -> Floats:
    """The noiseless step by plain autograd, one shopper at a time."""
    privacy, entropy = PrivacyPlan.of(plan), SeededEntropy(7)
    entropy.random_bytes(48)  # the noise stream's key and nonce
    rows = []
    embeddings, negatives = torch.from_numpy(data.embeddings), torch.from_numpy(data.negatives)
    for sample in Units.of(data, privacy, entropy).draw(0, entropy):
        tower = Tower.from_arrays(_weights())
        user = tower.user_vectors(embeddings[torch.from_numpy(sample.history)].mean(0))
        losses = []
        for target in sample.targets:
            own = user @ embeddings[int(target)] / 0.05
            everything = torch.cat([own[None], negatives @ user / 0.05])
            losses.append(torch.logsumexp(everything, 0) - own)
        grads = torch.autograd.grad(torch.stack(losses).mean(), list(tower.parameters()))
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    stacked = torch.stack(rows)
    total = clipped_sum(stacked, 1.0)
    return np.asarray(-total.numpy() / privacy.expected_shoppers, np.float32)


def test_a_step_is_the_loop_over_shoppers_by_plain_autograd() -> None:
    data, plan = _data(), _plan(noise=1e-9)
    after = train_tower(_weights(), data, plan, SeededEntropy(7))
    np.testing.assert_allclose(_step(_weights(), after), _expected(data, plan), atol=1e-5)


def test_the_update_has_the_models_names_shapes_and_dtypes_and_the_public_parts_unchanged() -> None:
    weights = _weights()
    after = train_tower(weights, _data(), _plan(), SeededEntropy())
    assert list(after) == list(weights)
    for name, array in after.items():
        assert (array.shape, array.dtype) == (weights[name].shape, weights[name].dtype)
    assert all(np.array_equal(after[name], weights[name]) for name in ("center", "basis"))


@pytest.mark.parametrize("data", [_data(0), _data(6)], ids=["no shoppers", "nobody sampled"])
def test_an_empty_sample_still_adds_noise(data: ShopData) -> None:
    steps = []
    for seed in range(60):
        after = train_tower(_weights(), data, _plan(rate=1e-9), SeededEntropy(seed))
        steps.append(_step(_weights(), after))
    assert np.std(steps) == pytest.approx(1.0 / 4, rel=0.06)


def test_the_number_of_steps_is_the_plans() -> None:
    steps = [
        _step(_weights(), train_tower(_weights(), _data(0), _plan(steps=9), SeededEntropy(seed)))
        for seed in range(60)
    ]
    assert np.std(steps) == pytest.approx(3.0 / 4, rel=0.06)


def test_one_shoppers_embeddings_of_any_size_move_a_step_by_no_more_than_its_clip() -> None:
    data = _data(1)
    loud = ShopData(
        shoppers=data.shoppers, embeddings=data.embeddings * 1e6, negatives=data.negatives
    )
    after = train_tower(_weights(), loud, _plan(noise=1e-9), SeededEntropy())
    assert np.linalg.norm(_step(_weights(), after)) <= 1.0 / 4 * (1 + 1e-4)


def test_training_learns_what_shoppers_buy_together() -> None:
    data = _data(40)
    plan = _plan(noise=1e-9, steps=8, learning_rate=0.01)
    after = train_tower(_weights(), data, plan, SeededEntropy())
    assert _loss(after, data) < _loss(_weights(), data)


def _loss(weights: dict[str, Floats], data: ShopData) -> float:
    embeddings = torch.from_numpy(data.embeddings)
    means = torch.stack([embeddings[torch.from_numpy(one)].mean(0) for one in data.shoppers])
    targets, present = padded_targets(embeddings, data.shoppers)
    users = Tower.from_arrays(weights).user_vectors(means)
    negatives = torch.from_numpy(data.negatives)
    return float(shopper_losses(users, targets, present, negatives, 0.05).detach().mean())


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="tower"):
        train_tower({"weight": np.zeros(3, np.float32)}, _data(), _plan(), SeededEntropy())


def _moved(steps: int, proximal_mu: float) -> Floats:
    """Noise alone: how far so many steps lead from the start."""
    weights = _weights()
    after = train_tower(
        weights, _data(0), _plan(steps=steps), SeededEntropy(3), proximal_mu=proximal_mu
    )
    return _step(weights, after)


def test_the_proximal_term_pulls_each_step_back_to_the_rounds_model_and_nothing_else() -> None:
    """The second of two steps starts where the first one led, and is pulled back by mu of it."""
    first, both = _moved(1, 0.0), _moved(2, 0.0)
    np.testing.assert_allclose(_moved(1, 0.25), first, atol=1e-6)
    np.testing.assert_allclose(_moved(2, 0.25), both - 0.25 * first, atol=1e-6)


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_a_proximal_weight_that_is_no_number_from_zero_up_is_refused(mu: float) -> None:
    with pytest.raises(InvalidInputError, match="proximal weight"):
        _moved(1, mu)
