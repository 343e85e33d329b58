import numpy as np
import pytest
import torch

from hansa.core.errors import InvalidInputError
from hansa.core.models.shapes import tower_shapes
from hansa.core.models.tower import ARRAY_NAMES, Floats, Tower, principal_directions


def _catalogue(items: int = 40, dim: int = 8) -> Floats:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((items, dim)) + 1.0
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_the_initial_tower_is_the_zero_shot_model_exactly() -> None:
    tower = Tower.initial(_catalogue(), 3)
    history, item = torch.rand(5, 8), torch.rand(6, 8)
    users, items = tower(history, item)
    assert torch.equal(users, history)
    assert torch.equal(items, item)


def test_a_trained_tower_answers_as_its_formula() -> None:
    tower = Tower.initial(_catalogue(), 3)
    arrays = tower.arrays()
    rng = np.random.default_rng(0)
    arrays["weight"] = rng.standard_normal((3, 3)).astype(np.float32)
    arrays["bias"] = rng.standard_normal(3).astype(np.float32)
    user = rng.standard_normal(8).astype(np.float32)
    inner = arrays["weight"] @ arrays["basis"].T @ (user - arrays["center"]) + arrays["bias"]
    expected = user + arrays["basis"] @ inner
    answer = Tower.from_arrays(arrays).user_vectors(torch.from_numpy(user[None]))
    np.testing.assert_allclose(answer.detach().numpy()[0], expected, atol=1e-5)


def test_arrays_come_back_bit_for_bit_and_in_order() -> None:
    arrays = Tower.initial(_catalogue(), 4).arrays()
    again = Tower.from_arrays(arrays).arrays()
    assert tuple(again) == ARRAY_NAMES
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    assert {name: array.shape for name, array in again.items()} == tower_shapes(8, 4)


def test_only_the_residual_is_trained() -> None:
    tower = Tower.initial(_catalogue(), 4)
    assert sum(one.numel() for one in tower.parameters()) == 4 * 4 + 4


def test_the_directions_are_orthonormal_and_their_signs_fixed() -> None:
    _, basis = principal_directions(_catalogue(), 5)
    np.testing.assert_allclose(basis.T @ basis, np.eye(5), atol=1e-6)
    assert (basis[np.abs(basis).argmax(axis=0), np.arange(5)] > 0).all()


@pytest.mark.parametrize("rank", [0, 9])
def test_a_rank_beyond_the_catalogue_is_refused(rank: int) -> None:
    with pytest.raises(InvalidInputError, match="rank"):
        Tower.initial(_catalogue(), rank)


def test_a_catalogue_that_is_not_finite_is_refused() -> None:
    catalogue = _catalogue()
    catalogue[0, 0] = np.nan
    with pytest.raises(InvalidInputError, match="finite"):
        Tower.initial(catalogue, 2)


def test_arrays_of_another_shape_or_name_are_refused() -> None:
    arrays = Tower.initial(_catalogue(), 4).arrays()
    with pytest.raises(InvalidInputError, match="weight"):
        Tower.from_arrays(arrays | {"weight": np.zeros((3, 4), np.float32)})
    with pytest.raises(InvalidInputError, match="in this order"):
        Tower.from_arrays(dict(reversed(arrays.items())))
