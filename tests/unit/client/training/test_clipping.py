import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hansa.client.training.clipping import clipped_sum, per_record_gradients
from hansa.client.training.ghost import ghost_gradients
from hansa.core.errors import InvalidInputError

WAYS = [per_record_gradients, ghost_gradients]
each_way = pytest.mark.parametrize("way", WAYS, ids=["hooks", "ghost"])
CLIP = 0.5


class Tokens(nn.Module):
    """A little of everything that a layer has; one row a unit, ``(units, tokens, width)``."""

    def __init__(self, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner = nn.Linear(width, 6)
            self.norm = nn.LayerNorm(6)
            self.outer = nn.Linear(6, 1, bias=False)
            self.head = nn.Linear(6, 1)

    def forward(self, rows: Tensor) -> Tensor:
        states = self.norm(torch.tanh(self.inner(rows)))
        mixed = (self.outer(states).softmax(dim=1) * states).sum(dim=1)
        return self.head(mixed).squeeze(1)


def _sum(way, module: nn.Module, rows: Tensor, clip: float = CLIP) -> Tensor:
    with way(module, tuple(module.parameters())) as gradients:
        return gradients(lambda: module(rows.clone().requires_grad_()), clip)


def _singly(module: nn.Module, rows: Tensor, clip: float = CLIP) -> Tensor:
    found = []
    for row in rows:
        grads = torch.autograd.grad(module(row[None])[0], list(module.parameters()))
        found.append(torch.cat([grad.flatten() for grad in grads]))
    return clipped_sum(torch.stack(found), clip)


def _rows(units: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(units, 3, 4, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("clip", [1e-3, 0.5, 100.0])
@each_way
def test_the_clipped_sum_is_that_of_one_unit_at_a_time(way, clip: float) -> None:
    module = Tokens()
    found = _sum(way, module, _rows(7), clip)
    torch.testing.assert_close(found, _singly(module, _rows(7), clip), rtol=1e-4, atol=clip * 1e-5)


def test_a_clipped_sum_is_worked_out_by_hand() -> None:
    """(3, 4) is scaled by a tenth, (0.3, 0) stays."""
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.0]])
    torch.testing.assert_close(
        clipped_sum(rows, 0.5), torch.tensor([0.6, 0.4], dtype=torch.float64), rtol=1e-5, atol=0
    )


VALUES = st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e3, 1e8, 1e19, 3e38, float("nan"), float("inf")])


@each_way
@settings(max_examples=60, deadline=None)
@given(data=st.data(), units=st.integers(1, 5), seed=st.integers(0, 99))
def test_one_unit_moves_the_sum_by_at_most_the_clip_norm(way, data, units: int, seed: int) -> None:
    """Whatever is in it: nothing, huge values, none that are numbers, the same as in another."""
    scales = torch.tensor(data.draw(st.lists(VALUES, min_size=units, max_size=units)))
    rows = _rows(units, seed) * scales[:, None, None]
    if data.draw(st.booleans()):
        rows[-1] = rows[0]
    module = Tokens(seed=seed)
    whole = _sum(way, module, rows)
    assert torch.isfinite(whole).all()
    gone = data.draw(st.integers(0, units - 1))
    rest = torch.cat([rows[:gone], rows[gone + 1 :]])
    without = _sum(way, module, rest) if len(rest) else torch.zeros_like(whole)
    assert float((whole - without).norm()) <= CLIP * (1 + 1e-4)


@each_way
def test_a_hostile_model_cannot_make_a_norm_cancel(way) -> None:
    """Tokens whose gradients are huge and nearly cancel: float32 would take the norm for zero."""
    module = nn.Linear(2, 1, bias=False)
    nn.init.ones_(module.weight)
    rows = torch.tensor([[[1e6, 1.0], [1e6, -1.0]]])
    weights = torch.tensor([[1.0], [-1.0 + 1e-7]]) * 1e6

    def losses() -> Tensor:
        return (module(rows.clone().requires_grad_()) * weights).sum(dim=(1, 2))

    with way(module, tuple(module.parameters())) as gradients:
        assert float(gradients(losses, CLIP).norm()) <= CLIP * (1 + 1e-4)


@each_way
def test_a_unit_whose_gradient_is_not_finite_counts_as_zero(way) -> None:
    rows = _rows(3)
    expected = _sum(way, Tokens(), rows[[0, 2]])
    for bad in (float("nan"), float("inf"), -float("inf")):
        rows[1, 0, 0] = bad
        torch.testing.assert_close(_sum(way, Tokens(), rows), expected, rtol=1e-5, atol=1e-7)


@each_way
def test_names_and_training_mode_stay_and_nothing_is_left_behind(way) -> None:
    module = Tokens().eval()
    names = list(module.state_dict())
    with way(module, tuple(module.parameters())) as gradients:
        assert list(module.state_dict()) == names
        assert module.training
        gradients(lambda: module(_rows(2).requires_grad_()), CLIP)
    assert not module.training
    assert all(one.grad is None for one in module.parameters())
    assert torch.autograd.grad(module(_rows(2)).sum(), list(module.parameters()))


@each_way
def test_a_trained_part_that_the_loss_does_not_use_is_refused(way) -> None:
    """As an unused pooler would be."""
    module = nn.ModuleDict({"used": nn.Linear(4, 1), "pooler": nn.Linear(4, 1)})
    with (
        way(module, tuple(module.parameters())) as gradients,
        pytest.raises(InvalidInputError, match="leave"),
    ):
        gradients(lambda: module["used"](torch.ones(2, 4, requires_grad=True))[:, 0], CLIP)


def test_ghost_clipping_refuses_a_part_that_is_used_twice() -> None:
    module = nn.Linear(4, 4)
    with (
        ghost_gradients(module, tuple(module.parameters())) as gradients,
        pytest.raises(InvalidInputError, match="used twice"),
    ):
        gradients(lambda: module(module(torch.ones(2, 4))).sum(dim=1), CLIP)


def test_ghost_clipping_refuses_tied_parameters() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    with (
        pytest.raises(InvalidInputError, match="untie"),
        ghost_gradients(module, tuple(module.parameters())),
    ):
        pass


def test_ghost_clipping_refuses_parts_that_it_does_not_know() -> None:
    module = nn.Embedding(3, 2)
    with (
        pytest.raises(InvalidInputError, match="Embedding: freeze it"),
        ghost_gradients(module, tuple(module.parameters())),
    ):
        pass


@each_way
def test_gradients_too_large_for_float32_squares_are_clipped_all_the_same(way) -> None:
    module = nn.Linear(4, 1, bias=False)
    rows = torch.full((1, 4), 1e25)
    with way(module, tuple(module.parameters())) as gradients:
        total = gradients(lambda: module(rows.clone().requires_grad_())[:, 0], CLIP)
    assert float(total.norm()) == pytest.approx(CLIP, rel=1e-4)


def test_no_units_give_zeros() -> None:
    assert not clipped_sum(torch.zeros(0, 4), 0.5).any()
