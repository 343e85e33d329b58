"""The tower: a low-rank correction of the user's vector on top of frozen text embeddings.

With u the mean of the embeddings of a shopper's items, and x the embedding of an item,

    user = u + B (W B'(u - m) + b)        item = x        score = user . item

B holds the main directions of the public catalogue and m is its mean; both are public and stay as
they are. Only W and b are trained. At W = 0, b = 0 the tower is the zero-shot model, exactly; b
learns what sells, W what goes with what. Items keep their embeddings, so one index serves every
version of the tower.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hansa.core.errors import InvalidInputError
from hansa.core.models.shapes import BASIS, BIAS, CENTER, WEIGHT, tower_shapes

Floats = npt.NDArray[np.float32]

ARRAY_NAMES: Final = (CENTER, BASIS, WEIGHT, BIAS)
"""In the order in which they travel; the first two are public constants."""


class Tower(nn.Module):
    """User and item vectors of one model; see the module's docstring for the formula."""

    center: Tensor
    basis: Tensor

    def __init__(self, center: Tensor, basis: Tensor) -> None:
        """A tower that is still the zero-shot model.

        Args:
            center: m, the public catalogue's mean embedding, ``(dim,)``.
            basis: B, orthonormal columns, ``(dim, rank)``.
        """
        super().__init__()
        self.register_buffer(CENTER, center)
        self.register_buffer(BASIS, basis)
        rank = basis.shape[1]
        self.residual = nn.Linear(rank, rank)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)

    @classmethod
    def initial(cls, catalogue: Floats, rank: int) -> "Tower":
        """The zero-shot tower over the public catalogue's embeddings ``(items, dim)``.

        Raises:
            InvalidInputError: the catalogue has fewer than ``rank`` directions, or is not finite.
        """
        center, basis = principal_directions(catalogue, rank)
        return cls(torch.from_numpy(center), torch.from_numpy(basis))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> "Tower":
        """The tower that ``arrays()`` described.

        Raises:
            InvalidInputError: names or shapes are not those of a tower.
        """
        _check_arrays(arrays)
        tensors = {name: torch.tensor(arrays[name], dtype=torch.float32) for name in ARRAY_NAMES}
        tower = cls(tensors[CENTER], tensors[BASIS])
        with torch.no_grad():
            tower.residual.weight.copy_(tensors[WEIGHT])
            tower.residual.bias.copy_(tensors[BIAS])
        return tower

    def arrays(self) -> dict[str, Floats]:
        """Copies of all numbers, float32, named and ordered by ``ARRAY_NAMES``."""
        values = (self.center, self.basis, self.residual.weight, self.residual.bias)
        pairs = zip(ARRAY_NAMES, values, strict=True)
        return {name: value.detach().cpu().numpy().copy() for name, value in pairs}

    def coordinates(self, history: Tensor) -> Tensor:
        """B'(u - m): the residual's input ``(n, rank)`` for mean histories ``(n, dim)``."""
        return (history - self.center) @ self.basis

    def user_vectors(self, history: Tensor) -> Tensor:
        """User vectors ``(n, dim)`` of mean histories ``(n, dim)``."""
        correction: Tensor = self.residual(self.coordinates(history))
        return history + correction @ self.basis.T

    def forward(self, history: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """User vectors ``(n, dim)`` and item vectors ``(m, dim)``, as the export wants them."""
        return self.user_vectors(history), item * 1.0


def principal_directions(catalogue: Floats, rank: int) -> tuple[Floats, Floats]:
    """The catalogue's mean ``(dim,)`` and first principal directions ``(dim, rank)``.

    Each direction's largest coordinate is positive. Machines may still differ in the last bits:
    compute this once, at the server, and send it with the model.

    Raises:
        InvalidInputError: the catalogue has fewer than ``rank`` directions, or is not finite.
    """
    if catalogue.ndim != 2 or not np.isfinite(catalogue).all():
        raise InvalidInputError("the public catalogue's embeddings must be a finite matrix")
    if not 1 <= rank <= min(len(catalogue) - 1, catalogue.shape[1]):
        raise InvalidInputError(
            f"rank {rank} needs a public catalogue of more items, or longer embeddings"
        )
    center = catalogue.mean(axis=0, dtype=np.float64)
    rows = np.linalg.svd(catalogue - center, full_matrices=False)[2][:rank]
    largest = np.abs(rows).argmax(axis=1)
    signs = np.sign(rows[np.arange(rank), largest])
    return center.astype(np.float32), np.ascontiguousarray((rows * signs[:, None]).T, np.float32)


def _check_arrays(arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    if tuple(arrays) != ARRAY_NAMES or arrays[BASIS].ndim != 2:
        raise InvalidInputError(f"a tower has the arrays {', '.join(ARRAY_NAMES)}, in this order")
    for name, shape in tower_shapes(*arrays[BASIS].shape).items():
        if arrays[name].shape != shape:
            raise InvalidInputError(
                f"the tower's array {name!r} is {arrays[name].shape}, not {shape}"
            )
