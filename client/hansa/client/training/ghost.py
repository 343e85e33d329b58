"""Clipped sums without a gradient for each unit in memory: ghost clipping with book-keeping.

A linear map's gradient for one unit is the product of what went in and what came back; its norm
follows from their two Gram matrices. So one backward pass keeps both for every trained map, norms
and factors come from them, and so does the clipped sum: no second pass, which is why it is cheaper
than two-pass ghost clipping, and units whose gradient is not finite can be left out of the sum.

Norms are in float64, because a hostile model could make float32 Gram matrices cancel.

References:
    Li et al., "Large language models can be strong differentially private learners",
    arXiv:2110.05679 (ghost clipping).
    Bu et al., "Differentially private optimization on large model at small cost",
    arXiv:2210.00038 (book-keeping).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from hansa.client.training.clipping import ClippedGradients, clip_factors
from hansa.core.errors import InvalidInputError

_CANCELLATION: Final = 1e-3
"""A norm counts as at least this share of the sum of its tokens' norms: where more cancels, float32
sums round away what clipping promises. Training stays far above it."""

_SMALLEST_FACTOR: Final = 1e-30
"""A unit that would have to be scaled down further counts as zero: float32 has no such factors."""


class _Part(Protocol):
    """The gradients of one parameter for all units, in a form that is cheap to sum."""

    def norms(self) -> tuple[Tensor, Tensor]:
        """Squared norms and, never below them, squared sums of the tokens' norms; ``(units,)``."""
        ...

    def weighted(self, factors: Tensor) -> Tensor:
        """The sum over units of factor times gradient, flat, float64; a factor of 0 leaves out."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """A gradient for each unit as it is: of biases and normalisations, which are small."""

    rows: Tensor

    def norms(self) -> tuple[Tensor, Tensor]:
        squares = self.rows.double().square().sum(dim=1)
        return squares, squares

    def weighted(self, factors: Tensor) -> Tensor:
        return factors @ _without(self.rows, factors).double()


@dataclass(frozen=True, kw_only=True)
class _Product:
    """A linear map's gradients: what went in and what came back, ``(units, tokens, width)``."""

    inward: Tensor
    backward: Tensor

    def norms(self) -> tuple[Tensor, Tensor]:
        inward, backward = _gram(self.inward), _gram(self.backward)
        tokens = _diagonal_root(inward) * _diagonal_root(backward)
        return (inward * backward).sum(dim=(1, 2)), tokens.sum(dim=1).square()

    def weighted(self, factors: Tensor) -> Tensor:
        inward, backward = _without(self.inward, factors), _without(self.backward, factors)
        scaled = backward * factors.to(backward.dtype).view(-1, 1, 1)
        total: Tensor = scaled.flatten(end_dim=1).T @ inward.flatten(end_dim=1)
        return total.flatten().double()


class GhostGradients:
    """Clips what one pass through the module leaves behind: for many parameters."""

    def __init__(self, module: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._owners = _owners(module, parameters)
        self._seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def __call__(self, losses: Callable[[], Tensor], clip_norm: float) -> Tensor:
        """See ``ClippedGradients``; a unit whose gradient is not finite counts as zero."""
        self._seen.clear()
        try:
            parts = self._parts(losses())
            factors = _factors(parts, clip_norm)
            return torch.cat([part.weighted(factors) for part in parts])
        finally:
            self._seen.clear()

    def remember(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keeps what went through a module; a forward hook.

        Raises:
            InvalidInputError: the module is used twice in one pass.
        """
        if not torch.is_grad_enabled():
            return
        if module in self._seen:
            raise InvalidInputError(
                "a trained part is used twice for one unit, and ghost clipping sums over one use: "
                "put all rows into one pass, or train adapters"
            )
        self._seen[module] = (inputs[0].detach(), output)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules whose passes have to be kept."""
        return tuple(self._owners)

    def _parts(self, losses: Tensor) -> list[_Part]:
        if set(self._seen) != set(self._owners):
            raise InvalidInputError(
                "the loss does not use everything that is trained: leave the rest out"
            )
        passes = list(self._seen.items())
        grads = torch.autograd.grad(losses.sum(), [output for _, (_, output) in passes])
        found: dict[nn.Parameter, _Part] = {}
        for (module, (inward, _)), backward in zip(passes, grads, strict=True):
            if len(inward) != len(losses):
                raise InvalidInputError("each unit must be one row of every trained part's input")
            found |= _module_parts(module, inward, backward)
        return [found[parameter] for parameter in self._parameters]


@contextmanager
def ghost_gradients(
    module: nn.Module, parameters: Sequence[nn.Parameter]
) -> Iterator[ClippedGradients]:
    """Within this context the module's clipped sums need no gradient for each unit in memory.

    The module goes into training mode and back. Each unit must be one row of every trained part's
    input, ``(units, ..., width)``.

    Raises:
        InvalidInputError: a parameter belongs to something else than a linear map or a layer
            normalisation, or to two of them.
    """
    was_training = module.training
    module.train()
    ghost = GhostGradients(module, parameters)
    handles = [one.register_forward_hook(ghost.remember) for one in ghost.modules]
    try:
        yield ghost
    finally:
        for handle in handles:
            handle.remove()
        module.train(was_training)


def _owners(
    module: nn.Module, parameters: Sequence[nn.Parameter]
) -> Mapping[nn.Module, frozenset[nn.Parameter]]:
    """The modules that have trained parameters of their own."""
    wanted, owners = set(parameters), {}
    for part in module.modules():
        own = frozenset(part.parameters(recurse=False)) & wanted
        if own and not isinstance(part, nn.Linear | nn.LayerNorm):
            raise InvalidInputError(
                f"ghost clipping knows linear maps and layer normalisations, not "
                f"{type(part).__name__}: freeze it"
            )
        if own:
            owners[part] = own
    if sum(map(len, owners.values())) != len(wanted):
        raise InvalidInputError("a trained parameter belongs to two parts, or to none: untie it")
    return owners


def _module_parts(module: nn.Module, inward: Tensor, backward: Tensor) -> dict[nn.Parameter, _Part]:
    """The parts of a module's own parameters, trained or not."""
    weight: _Part = _Product(inward=_tokens(inward), backward=_tokens(backward))
    if isinstance(module, nn.LayerNorm):
        plain = nn.functional.layer_norm(inward, module.normalized_shape, eps=module.eps)
        weight = _Rows(rows=_over_tokens(plain * backward))
    parts = {"weight": weight, "bias": _Rows(rows=_over_tokens(backward))}
    return {one: parts[name] for name, one in module.named_parameters(recurse=False)}


def _factors(parts: Sequence[_Part], clip_norm: float) -> Tensor:
    """What each unit is multiplied by, ``(units,)``, float64; 0 where something is not finite."""
    pairs = [part.norms() for part in parts]
    squares = torch.stack([one for one, _ in pairs]).sum(dim=0)
    largest = torch.stack([one for _, one in pairs]).sum(dim=0)
    factors = clip_factors(torch.maximum(squares, _CANCELLATION**2 * largest).sqrt(), clip_norm)
    return torch.where(factors > _SMALLEST_FACTOR, factors, 0.0)  # not a number is not above it


def _without(values: Tensor, factors: Tensor) -> Tensor:
    """The values with zeros where a unit's factor is 0: zero times infinity is not zero."""
    left_out = factors == 0
    if not left_out.any():
        return values
    return values.masked_fill(left_out.view(-1, *[1] * (values.dim() - 1)), 0.0)


def _tokens(values: Tensor) -> Tensor:
    """``(units, tokens, width)``, with one token where there is no such dimension."""
    return values.reshape(len(values), -1, values.shape[-1])


def _over_tokens(values: Tensor) -> Tensor:
    """The sum over tokens, ``(units, width)``."""
    return _tokens(values).sum(dim=1)


def _gram(values: Tensor) -> Tensor:
    """Inner products of the tokens of each unit, ``(units, tokens, tokens)``, float64."""
    wide = values.double()
    return wide @ wide.transpose(1, 2)


def _diagonal_root(gram: Tensor) -> Tensor:
    return gram.diagonal(dim1=1, dim2=2).clamp(min=0.0).sqrt()
