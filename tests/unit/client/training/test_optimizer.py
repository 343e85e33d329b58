import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hansa.client.training.optimizer import NoisyOptimizer
from hansa.core.errors import InvalidInputError
from hansa.core.plan import TrainingSpec
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


def _start(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def _optimizer(
    parameters: list[nn.Parameter], privacy: PrivacyPlan, steps: int = 1, **training: Any
) -> NoisyOptimizer:
    privacy = dataclasses.replace(privacy, local_steps=steps)
    spec = TrainingSpec.model_validate({"learning_rate": 1.0, **training})
    noise = privacy.noise_stream(AesNormal.fresh(SeededEntropy(1)))
    return NoisyOptimizer(parameters, spec, privacy, noise)


def _sum(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_step_divides_by_the_public_number_and_goes_to_each_parameter_in_order() -> None:
    first, second = _start(0.0, 0.0), _start(1.0)
    _optimizer([first, second], SILENT).step(_sum(8.0, -16.0, 4.0))
    assert first.tolist() == [-1.0, 2.0]
    assert second.tolist() == [0.5]


def test_the_noise_has_its_standard_deviation() -> None:
    parameter = nn.Parameter(torch.zeros(400_000))
    _optimizer([parameter], PRIVACY).step(torch.zeros(400_000, dtype=torch.float64))
    expected = PRIVACY.noise_std / PRIVACY.expected_shoppers
    assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.01)


def test_each_step_draws_fresh_noise() -> None:
    parameter = nn.Parameter(torch.zeros(50))
    optimizer, steps = _optimizer([parameter], PRIVACY, steps=2), []
    for _ in range(2):
        before = parameter.detach().clone()
        optimizer.step(torch.zeros(50, dtype=torch.float64))
        steps.append(parameter.detach() - before)
    assert not np.isclose(steps[0].numpy(), steps[1].numpy()).any()


def test_banded_noise_is_partly_taken_back_by_the_next_step() -> None:
    """With two bands the second step's noise leans against the first one's."""
    parameter = nn.Parameter(torch.zeros(20_000))
    banded = dataclasses.replace(PRIVACY, sampling_rate=1.0, bands=2)
    optimizer, steps = _optimizer([parameter], banded, steps=2), []
    for _ in range(2):
        before = parameter.detach().clone()
        optimizer.step(torch.zeros(20_000, dtype=torch.float64))
        steps.append((parameter.detach() - before).numpy())
    assert np.corrcoef(*steps)[0, 1] < -0.3


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(1, 40), rounds=st.integers(1, 5))
def test_the_optimiser_takes_as_many_steps_as_the_event_books(steps: int, rounds: int) -> None:
    privacy = dataclasses.replace(PRIVACY, local_steps=steps, rounds=rounds)
    taken = 0
    for _ in range(rounds):
        optimizer = _optimizer([_start(0.0)], privacy, steps=steps)
        for _ in range(privacy.round_event().steps):
            optimizer.step(_sum(1.0))
        optimizer.finish()
        taken += optimizer.steps
        with pytest.raises(InvalidInputError, match="books"):
            optimizer.step(_sum(1.0))
    assert taken == sum(event.steps for event in privacy.training_events())


def test_a_round_of_fewer_steps_than_booked_is_refused() -> None:
    optimizer = _optimizer([_start(0.0)], SILENT, steps=3)
    optimizer.step(_sum(1.0))
    with pytest.raises(InvalidInputError, match="1 of 3 booked steps"):
        optimizer.finish()


def test_a_sum_of_other_parameters_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="other parameters"):
        _optimizer([_start(0.0)], SILENT).step(_sum(1.0, 2.0))


@pytest.mark.parametrize("parameters", [[], [nn.Parameter(torch.zeros(1), requires_grad=False)]])
def test_nothing_to_train_is_refused(parameters: list[nn.Parameter]) -> None:
    with pytest.raises(InvalidInputError, match="nothing can be trained"):
        _optimizer(parameters, PRIVACY)


def test_weight_decay_of_plain_descent_is_decoupled() -> None:
    """2 - 0.5 * (8 / 8) - 0.5 * 0.1 * 2 = 1.4: the gradient is not decayed."""
    parameter = _start(2.0)
    _optimizer([parameter], SILENT, learning_rate=0.5, weight_decay=0.1).step(_sum(8.0))
    assert parameter.item() == pytest.approx(1.4)


def test_adamw_is_worked_out_by_hand() -> None:
    """Adam's first step is the learning rate towards the sign; the decay comes beside it.

    After gradients 1 and 3 with decays 0.5 and 0.75: m = 1.75 / 0.75, v = 2.4375 / 0.4375.
    """
    parameter = _start(2.0)
    spec = {"momentum_decay": 0.5, "variance_decay": 0.75, "epsilon": 1e-12}
    optimizer = _optimizer(
        [parameter], SILENT, 2, learning_rate=0.1, optimizer="adamw", adamw=spec, weight_decay=0.5
    )
    optimizer.step(_sum(8.0))
    first = 2.0 - 0.1 * 0.5 * 2.0 - 0.1
    assert parameter.item() == pytest.approx(first)
    optimizer.step(_sum(24.0))
    moved = (1.75 / 0.75) / (2.4375 / 0.4375) ** 0.5
    assert parameter.item() == pytest.approx(first - 0.1 * 0.5 * first - 0.1 * moved)


def test_adamw_forgets_between_rounds() -> None:
    """Two optimisers, as two rounds have them, move alike from the same place."""
    moves = []
    for _ in range(2):
        parameter = _start(1.0)
        optimizer = _optimizer([parameter], SILENT, 1, optimizer="adamw", learning_rate=0.1)
        optimizer.step(_sum(5.0))
        moves.append(parameter.item())
    assert moves[0] == moves[1]


@pytest.mark.parametrize(
    ("tail", "expected"), [(None, -4.0), (0.5, -3.5), (1.0, -2.5), (0.01, -4.0)]
)
def test_a_round_ends_with_the_mean_of_its_last_iterates(
    tail: float | None, expected: float
) -> None:
    """Four steps of -1 lead to -1, -2, -3, -4."""
    parameter = _start(0.0)
    optimizer = _optimizer([parameter], SILENT, 4, average_tail=tail)
    for _ in range(4):
        optimizer.step(_sum(8.0))
    optimizer.finish()
    assert parameter.item() == pytest.approx(expected)
