"""How arrays travel between server and merchant: quantised, packed, and read back with a bound.

**Up** goes the difference between a merchant's arrays and the round's model, rounded at random
(without bias) in steps: a value that is read back differs from the one that was written by less
than its block's step, which is the block's largest magnitude divided by 127 (8 bits) or 7 (4 bits),
plus one rounding of the array's own dtype. What was lost is handed back as the *residual*, to be
added to the next difference (error feedback), so that over the rounds nothing is lost. All of
this happens after the noise, hence it is post-processing: it costs no privacy.

**Down** goes the model itself, rounded to the nearest step, which makes it the same for everybody
and after every restart: at most half a step off. Both ends train from and compare with what is
*read back*; ``lowered`` gives that to the server, and encoding it once more changes nothing.

Where 32 bits are wanted, and for every array that is neither float32 nor float64, values travel as
they are.

References:
    Seide et al., "1-bit stochastic gradient descent", Interspeech 2014 (error feedback).
    Karimireddy et al., "Error feedback fixes SignSGD", arXiv:1901.09847.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hansa.compression.parcel import (
    AS_IT_IS,
    Body,
    Label,
    quantised_bits,
    read_label,
    read_plain,
    unwrap,
    wrap,
)
from hansa.compression.uniform import (
    Bits,
    Doubles,
    MalformedError,
    pieces,
    quantise,
    step_of,
    to_body,
)
from hansa.core.errors import InvalidInputError, UpdateRejectedError
from hansa.core.privacy.mechanism import Entropy
from hansa.core.tensors import LazyArrays, Spec, spec_of
from hansa.core.update import Arrays

Array = npt.NDArray[Any]

_DRAW: Final = np.dtype("<u4")
_DRAW_STEP: Final = 2.0**-32


@dataclass(frozen=True, kw_only=True)
class EncodedUpdate:
    """An update as it travels, and what of it stays behind."""

    arrays: Arrays
    """One array of bytes for each of the update's, by name and in order."""
    residual: Arrays
    """The difference less what the server will read, float32; to be added to the next one."""


def encode_update(
    update: Arrays,
    base: Arrays,
    *,
    bits: int,
    zstd: bool,
    entropy: Entropy,
    residual: Arrays | None = None,
) -> EncodedUpdate:
    """A merchant's noised arrays as they travel.

    Args:
        update: what the merchant returns, noised already.
        base: the round's model as this merchant received it.
        bits: width of a value; with 32 the update travels as it is and leaves no residual.
        zstd: whether to pack arrays where that makes them smaller.
        entropy: for rounding at random.
        residual: what the last update of this run left behind, if any.

    Raises:
        InvalidInputError: the update's arrays are not those of the model, or not finite.
    """
    _check_alike(update, base)
    coded = {
        name: _encode(name, array, base[name], (residual or {}).get(name), bits, zstd, entropy)
        for name, array in update.items()
    }
    left = {name: one for name, (_, one) in coded.items() if one is not None}
    return EncodedUpdate(arrays={name: one for name, (one, _) in coded.items()}, residual=left)


def decode_update(arrays: Arrays, base: Arrays, *, bits: int) -> dict[str, Array]:
    """A merchant's arrays from what it sent.

    Raises:
        UpdateRejectedError: names or order differ from the model's, or an array is not a parcel of
            its shape, dtype and width, or its scales are not finite.
    """
    return dict(DecodedUpdate.of(arrays, base, bits=bits))


@dataclass(frozen=True, kw_only=True)
class DecodedUpdate(LazyArrays):
    """A merchant's arrays, each decoded whenever it is asked for: only one need be in memory.

    To ask for an array raises UpdateRejectedError where ``decode_update`` would.
    """

    arrays: Arrays
    """As they travelled."""
    base: Arrays
    """The round's model as this merchant received it."""
    bits: int

    @classmethod
    def of(cls, arrays: Arrays, base: Arrays, *, bits: int) -> "DecodedUpdate":
        """Nothing is decoded yet.

        Raises:
            UpdateRejectedError: names or order are not those of the model.
        """
        if list(arrays) != list(base):
            raise UpdateRejectedError("the update's arrays are not those of the round's model")
        return cls(arrays=arrays, base=base, bits=bits)

    def __getitem__(self, name: str) -> Array:
        base = self.base[name]
        try:
            return _decode(self.arrays[name], Label.of(base, self.bits), base)
        except ValueError as error:
            raise UpdateRejectedError(f"array {name!r} cannot be read: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)

    def spec(self, name: str) -> Spec:
        """That of the model's array: another one cannot be decoded."""
        return spec_of(self.base, name)


def encode_model(model: Arrays, *, bits: int, zstd: bool) -> dict[str, Array]:
    """The round's model as it travels: the same bytes whenever it is encoded.

    Raises:
        InvalidInputError: a value is not finite, or the dtype cannot travel.
    """
    encoded = {}
    for name, array in model.items():
        try:
            label = Label.of(array, bits)
            encoded[name] = wrap(label, _body(array, label), zstd=zstd)
        except ValueError as error:
            raise InvalidInputError(f"array {name!r} cannot be encoded: {error}") from error
    return encoded


def decode_model(arrays: Arrays, *, max_bytes: int) -> dict[str, Array]:
    """The model from what the server sent.

    Args:
        arrays: one parcel each.
        max_bytes: bound of all decoded arrays together, checked before anything is unpacked.

    Raises:
        InvalidInputError: an array is no parcel, or all together are too large.
    """
    try:
        labels = {name: read_label(parcel) for name, parcel in arrays.items()}
        if sum(max(label.array_bytes, label.body_bytes) for label in labels.values()) > max_bytes:
            raise MalformedError(f"all arrays together exceed {max_bytes} bytes")
        return {name: _decode(parcel, labels[name]) for name, parcel in arrays.items()}
    except ValueError as error:
        raise InvalidInputError(f"the model cannot be read: {error}") from error


def lowered(model: Arrays, *, bits: int) -> Arrays:
    """The model as every merchant will read it; at 32 bits it is the model.

    Raises:
        InvalidInputError: a value is not finite.
    """
    if bits == AS_IT_IS:
        return model
    total = sum(array.nbytes for array in model.values())
    return decode_model(encode_model(model, bits=bits, zstd=False), max_bytes=2 * total + 1024)


def restored(aggregate: Arrays, model: Arrays, lowered_model: Arrays) -> Arrays:
    """The aggregate with what the way down had rounded off the model.

    Merchants step from the lowered model, and the aggregate is the lowered model plus their common
    step. Without this the model would stand still wherever a step is below half a scale.
    """
    if lowered_model is model:
        return aggregate
    return {
        name: _shifted(array, model[name], lowered_model[name]) for name, array in aggregate.items()
    }


def encoded_bytes(shape: tuple[int, ...], *, bits: int) -> int:
    """At most so many bytes does a float32 array of this shape take on its way."""
    label = Label(bits=bits, dtype="float32", shape=shape)
    return len(label.to_bytes(0)) + label.body_bytes


def error_bound(update: Array, base: Array, *, bits: int) -> Array:
    """For each value, how far at most what is read back is from what was written (no residual)."""
    label = Label.of(update, bits)
    width = quantised_bits(label.bits)
    if width is None:
        return np.zeros(update.shape)
    steps = step_of(_flat(update) - _flat(base), width)
    ulp = np.finfo(update.dtype).eps * (np.abs(_flat(update)) + np.abs(_flat(base)) + steps)
    bound: Array = (steps + ulp).reshape(update.shape)
    return bound


def _encode(
    name: str,
    array: Array,
    base: Array,
    residual: Array | None,
    bits: int,
    zstd: bool,
    entropy: Entropy,
) -> tuple[Array, Array | None]:
    try:
        label = Label.of(array, bits)
        width = quantised_bits(label.bits)
        if width is None:
            return wrap(label, _body(array, label), zstd=zstd), None
        difference = _flat(array) - _flat(base)
        if residual is not None and residual.shape == array.shape:
            difference += _flat(residual)
        quantised = quantise(difference, width, _uniforms(difference.size, entropy))
    except ValueError as error:
        raise InvalidInputError(f"array {name!r} cannot be encoded: {error}") from error
    read = _stepped(base, quantised.values())
    left = difference - (_flat(read) - _flat(base))
    parcel = wrap(label, to_body(quantised, width), zstd=zstd)
    return parcel, left.astype(np.float32).reshape(array.shape)


def _body(array: Array, label: Label) -> bytes:
    width = quantised_bits(label.bits)
    if width is None:
        return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return to_body(quantise(_flat(array), width), width)


def _decode(parcel: Array, label: Label, base: Array | None = None) -> Array:
    """The array in a parcel: a difference from ``base`` where it is quantised and one is given."""
    body = unwrap(parcel, label)
    width: Bits | None = quantised_bits(label.bits)
    array = read_plain(body, label) if width is None else _dequantised(body, label, width, base)
    body.check_end()
    return array


def _dequantised(body: Body, label: Label, width: Bits, base: Array | None) -> Array:
    """Each piece goes from its codes into its place: the array is in memory once."""
    start = None if base is None else base.reshape(-1)
    array = np.empty(label.count, label.dtype if base is None else base.dtype)
    for place, quantised in pieces(body.take, label.count, width):
        values = quantised.values()
        with np.errstate(over="ignore"):
            array[place] = values if start is None else _stepped(start[place], values)
    return array.reshape(label.shape)


def _stepped(base: Array, values: Doubles) -> Array:
    """The base plus a difference, as both ends compute it."""
    with np.errstate(over="ignore"):
        return (_flat(base) + values).astype(base.dtype).reshape(base.shape)


def _shifted(aggregate: Array, model: Array, lowered_model: Array) -> Array:
    if np.array_equal(model, lowered_model):
        return aggregate  # whole numbers would not survive a way through float64
    shift = _flat(model) - _flat(lowered_model)
    return (_flat(aggregate) + shift).astype(aggregate.dtype).reshape(aggregate.shape)


def _flat(array: Array) -> Doubles:
    return np.asarray(array, np.float64).reshape(-1)


def _uniforms(count: int, entropy: Entropy) -> Doubles:
    words = np.frombuffer(entropy.random_bytes(count * _DRAW.itemsize), _DRAW)
    return (words.astype(np.float64) + 0.5) * _DRAW_STEP


def _check_alike(update: Mapping[str, Array], base: Mapping[str, Array]) -> None:
    shapes = {name: (array.shape, array.dtype) for name, array in update.items()}
    if list(update) != list(base) or shapes != {
        name: (array.shape, array.dtype) for name, array in base.items()
    }:
        raise InvalidInputError("the app returned other arrays than those of the round's model")
