import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hansa.client.training.optimizer import ShopperDPOptimizer, clipped_sum, per_record_gradients
from hansa.core.errors import InvalidInputError
from hansa.core.privacy.mechanism import AesNormal
from hansa.core.privacy.plan import PrivacyPlan
from tests.fakes.entropy import SeededEntropy

PRIVACY = PrivacyPlan(
    unit="shopper",
    sampling_rate=0.5,
    expected_shoppers=8,
    records_per_shopper=4,
    clip_norm=0.5,
    noise_multiplier=1.0,
    evaluation_noise_multiplier=None,
    delta=1e-5,
    local_steps=1,
    rounds=1,
)
SILENT = dataclasses.replace(PRIVACY, noise_multiplier=0.0)


def _linear(width: int = 3) -> nn.Linear:
    module = nn.Linear(width, 1)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module


def _optimizer(module: nn.Module, privacy: PrivacyPlan) -> ShopperDPOptimizer:
    inner = torch.optim.SGD(module.parameters(), lr=1.0)
    return ShopperDPOptimizer(inner, privacy, AesNormal.fresh(SeededEntropy(1)))


def _released(rows: Tensor, groups: Tensor, shoppers: int) -> Tensor:
    """What a step without noise releases for records whose gradient is (row, 1)."""
    module = _linear(rows.shape[1])
    optimizer = _optimizer(module, SILENT)
    with per_record_gradients(module):
        optimizer.zero_grad()
        optimizer.group(groups, shoppers)
        module(rows.clone().requires_grad_()).sum().backward()
        optimizer.step()
    return -torch.cat([module.weight.detach().flatten(), module.bias.detach()])


def _by_hand(rows: Tensor, groups: Tensor, shoppers: int) -> Tensor:
    total = torch.zeros(rows.shape[1] + 1)
    for shopper in range(shoppers):
        own = rows[groups == shopper]
        mean = torch.cat([own, torch.ones(len(own), 1)], dim=1).mean(dim=0)
        total += mean * min(1.0, 0.5 / float(mean.norm()))
    return total / PRIVACY.expected_shoppers


def test_a_step_is_the_loop_over_shoppers() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, groups = torch.randn(9, 3, generator=generator), torch.tensor([0, 0, 1, 2, 2, 2, 3, 3, 1])
    torch.testing.assert_close(
        _released(rows, groups, 4), _by_hand(rows, groups, 4), rtol=1e-4, atol=1e-6
    )


def test_the_divisor_is_public_and_not_the_number_of_sampled_shoppers() -> None:
    one = _released(torch.full((1, 3), 9.0), torch.tensor([0]), 1)
    two = _released(torch.full((2, 3), 9.0), torch.tensor([0, 1]), 2)
    torch.testing.assert_close(two, 2 * one)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(1e-3, 1e6))
def test_one_shopper_moves_the_clipped_sum_by_at_most_the_clip_norm(
    seed: int, shoppers: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(3 * shoppers) % shoppers
    rows = torch.randn(len(groups), 5, generator=generator) * scale
    whole = clipped_sum(rows, groups, shoppers, 0.5)
    for gone in range(shoppers):
        kept = groups != gone
        renumbered = torch.where(groups > gone, groups - 1, groups)[kept]
        rest = clipped_sum(rows[kept], renumbered, shoppers - 1, 0.5)
        assert float((whole - rest).norm()) <= 0.5 * (1 + 1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_record_whose_gradient_is_not_finite_counts_as_zero(bad: float) -> None:
    rows = torch.tensor([[0.1, 0.0], [bad, 0.2], [0.0, 0.3]])
    groups = torch.tensor([0, 0, 1])
    zeroed = torch.where(torch.isfinite(rows).all(dim=1, keepdim=True), rows, 0.0)
    torch.testing.assert_close(clipped_sum(rows, groups, 2, 1.0), zeroed_sum(zeroed))
    assert torch.isfinite(_released(rows.repeat(1, 2)[:, :3], groups, 2)).all()


def zeroed_sum(rows: Tensor) -> Tensor:
    return rows[:2].mean(dim=0) + rows[2]


def test_gradients_too_large_for_float32_squares_are_clipped_all_the_same() -> None:
    total = clipped_sum(torch.full((1, 4), 3e38), torch.tensor([0]), 1, 0.5)
    assert float(total.norm()) == pytest.approx(0.5)


def test_no_shoppers_give_zeros() -> None:
    assert not clipped_sum(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0, 0.5).any()


@pytest.mark.parametrize("empty", [False, True])
def test_the_noise_has_its_standard_deviation_also_on_an_empty_batch(empty: bool) -> None:
    module = _linear(40_000)
    optimizer = _optimizer(module, PRIVACY)
    with per_record_gradients(module):
        if empty:
            optimizer.step_on_noise_alone()
        else:
            optimizer.group(torch.tensor([0]), 1)
            module(torch.zeros(1, 40_000, requires_grad=True)).sum().backward()
            optimizer.step()
    expected = PRIVACY.noise_std / PRIVACY.expected_shoppers
    assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.02)


def test_each_step_draws_fresh_noise() -> None:
    module = _linear(50)
    optimizer = _optimizer(module, PRIVACY)
    steps = []
    for _ in range(2):
        before = module.weight.detach().clone()
        optimizer.step_on_noise_alone()
        steps.append(module.weight.detach() - before)
    assert not np.isclose(steps[0].numpy(), steps[1].numpy()).any()


def test_parameter_names_stay_and_training_mode_comes_back() -> None:
    module = _linear().eval()
    with per_record_gradients(module):
        assert list(module.state_dict()) == ["weight", "bias"]
        assert module.training
    assert not module.training


def test_nothing_to_train_is_refused() -> None:
    module = _linear().requires_grad_(False)
    with pytest.raises(InvalidInputError, match="nothing can be trained"):
        _optimizer(module, PRIVACY)
