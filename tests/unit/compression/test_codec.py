import contextlib
import dataclasses
import io
import tracemalloc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hansa.compression.codec import (
    DecodedUpdate,
    decode_model,
    decode_update,
    encode_model,
    encode_update,
    encoded_bytes,
    error_bound,
    lowered,
    restored,
)
from hansa.compression.parcel import Label, wrap
from hansa.compression.uniform import BLOCK, LARGEST, PIECE, pieces, quantise, to_body
from hansa.core.errors import InvalidInputError, UpdateRejectedError
from hansa.core.update import Arrays
from tests.fakes.entropy import SeededEntropy

Floats = npt.NDArray[np.float32]

LIMIT = 1 << 20
BITS = st.sampled_from([4, 8])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=19)
DTYPES = st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)])
VALUES = st.floats(-1e9, 1e9, width=32)


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[Arrays, Arrays]:
    """An update and its base."""
    shape, dtype = draw(SHAPES), draw(DTYPES)
    one, two = (draw(hnp.arrays(dtype, shape, elements=VALUES)) for _ in range(2))
    return {"w": one}, {"w": two}


def _normal(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _sent(update: Arrays, base: Arrays, bits: int, *, seed: int = 0, zstd: bool = True) -> Arrays:
    entropy = SeededEntropy(seed)
    encoded = encode_update(update, base, bits=bits, zstd=zstd, entropy=entropy)
    return decode_update(encoded.arrays, base, bits=bits)


@given(pair=_pairs(), bits=BITS, zstd=st.booleans(), seed=st.integers(0, 2**32))
def test_what_is_read_back_is_within_one_step_of_what_was_written(pair, bits, zstd, seed) -> None:
    update, base = pair
    read = _sent(update, base, bits, seed=seed, zstd=zstd)["w"]
    assert (read.shape, read.dtype) == (update["w"].shape, update["w"].dtype)
    off = np.abs(read.astype(np.float64) - update["w"].astype(np.float64))
    assert (off <= error_bound(update["w"], base["w"], bits=bits)).all()


def test_the_step_is_a_blocks_largest_difference_by_the_largest_code() -> None:
    base = {"w": np.zeros(512, np.float32)}
    update = {"w": np.concatenate([np.full(256, 12.7), np.full(256, 1270.0)]).astype(np.float32)}
    bound = error_bound(update["w"], base["w"], bits=8)
    assert bound[:256] == pytest.approx(0.1, rel=1e-3)
    assert bound[256:] == pytest.approx(10.0, rel=1e-3)
    assert error_bound(update["w"], base["w"], bits=4)[0] == pytest.approx(12.7 / 7, rel=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_mean_of_what_is_read_back_is_what_was_written(bits) -> None:
    update, base = {"w": _normal(1, 40)}, {"w": _normal(2, 40)}
    reads = np.stack([_sent(update, base, bits, seed=seed)["w"] for seed in range(1500)])
    # A rounded value lies between two neighbours: its variance is at most a quarter of a step's.
    tolerance = 5 * error_bound(update["w"], base["w"], bits=bits) / 2 / np.sqrt(len(reads))
    assert (np.abs(reads.mean(axis=0, dtype=np.float64) - update["w"]) <= tolerance).all()


@given(pair=_pairs(), bits=BITS)
def test_the_residual_is_exactly_what_the_server_lacks(pair, bits) -> None:
    update, base = pair
    encoded = encode_update(update, base, bits=bits, zstd=False, entropy=SeededEntropy())
    read = decode_update(encoded.arrays, base, bits=bits)["w"].astype(np.float64)
    lacks = update["w"].astype(np.float64) - read
    np.testing.assert_allclose(encoded.residual["w"], lacks, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("bits", [4, 8])
def test_with_the_residual_nothing_is_lost_over_the_rounds(bits) -> None:
    steps = [{"w": _normal(seed, 300)} for seed in range(20)]
    base, entropy, residual = {"w": np.zeros(300, np.float32)}, SeededEntropy(), None
    read = np.zeros(300)
    for step in steps:
        sent = encode_update(step, base, bits=bits, zstd=True, entropy=entropy, residual=residual)
        residual = sent.residual
        read += decode_update(sent.arrays, base, bits=bits)["w"]
    written = np.sum([step["w"] for step in steps], axis=0, dtype=np.float64)
    np.testing.assert_allclose(read + residual["w"], written, atol=1e-4)


def test_equal_randomness_gives_equal_bytes() -> None:
    update, base = {"w": _normal(1, 400)}, {"w": _normal(2, 400)}
    one, two = (
        encode_update(update, base, bits=8, zstd=True, entropy=SeededEntropy(3)).arrays["w"]
        for _ in range(2)
    )
    assert one.tobytes() == two.tobytes()


@given(pair=_pairs(), bits=BITS)
def test_encoding_the_lowered_model_again_changes_nothing(pair, bits) -> None:
    model = pair[0]
    once = lowered(model, bits=bits)
    twice = decode_model(encode_model(once, bits=bits, zstd=True), max_bytes=LIMIT)
    np.testing.assert_array_equal(once["w"], twice["w"])
    assert once["w"].dtype == twice["w"].dtype == model["w"].dtype


@given(pair=_pairs(), bits=BITS)
def test_the_lowered_model_is_within_half_a_step(pair, bits) -> None:
    model = pair[0]
    bound = error_bound(model["w"], np.zeros_like(model["w"]), bits=bits) * 0.5 * (1 + 1e-6)
    assert (np.abs(lowered(model, bits=bits)["w"] - model["w"]) <= bound).all()


def test_steps_below_half_a_scale_still_move_the_restored_model() -> None:
    model: Arrays = {"w": np.array([1.0, 0.5], np.float32)}
    for _ in range(100):
        low = lowered(model, bits=4)
        aggregate = {"w": low["w"] + np.float32(0.001)}
        model = restored(aggregate, model, low)
    assert model["w"] == pytest.approx([1.1, 0.6], abs=1e-4)


def test_thirty_two_bits_travel_as_they_are() -> None:
    arrays: Arrays = {
        "w": _normal(1, 7, 5),
        "half": _normal(2, 3).astype(np.float16),
        "count": np.array(2**62 + 1, np.int64),
        "flags": np.array([True, False]),
        "none": np.zeros((0, 4), np.float32),
    }
    read = _sent(arrays, {name: np.zeros_like(one) for name, one in arrays.items()}, 32)
    down = decode_model(encode_model(arrays, bits=32, zstd=True), max_bytes=LIMIT)
    for name, array in arrays.items():
        for one in (read[name], down[name]):
            assert one.tobytes() == array.tobytes()
            assert (one.shape, one.dtype) == (array.shape, array.dtype)
    assert lowered(arrays, bits=32) is arrays


def test_what_is_no_float32_or_float64_is_never_rounded() -> None:
    arrays: Arrays = {"count": np.array([2**62 + 1]), "half": _normal(2, 9).astype(np.float16)}
    low = lowered(arrays, bits=4)
    for name, array in arrays.items():
        np.testing.assert_array_equal(low[name], array)
    moved = {"count": np.array([2**62 + 3]), "half": arrays["half"]}
    assert restored(moved, arrays, low)["count"][0] == 2**62 + 3


@given(count=st.integers(0, 1100), bits=BITS)
def test_the_promised_size_is_never_exceeded(count, bits) -> None:
    update, base = {"w": _normal(3, count)}, {"w": _normal(4, count)}
    encoded = encode_update(update, base, bits=bits, zstd=True, entropy=SeededEntropy())
    assert encoded.arrays["w"].nbytes <= encoded_bytes((count,), bits=bits)


def test_zstd_is_taken_only_where_it_makes_an_array_smaller() -> None:
    noise = np.frombuffer(SeededEntropy().random_bytes(4096), np.uint8)
    arrays: Arrays = {"noise": noise, "zeros": np.zeros(4096, np.uint8)}
    encoded = encode_model(arrays, bits=32, zstd=True)
    assert encoded["noise"].nbytes == 13 + 4096
    assert encoded["zeros"].nbytes < 100


def test_eight_bits_take_a_quarter_and_four_an_eighth_of_a_tower() -> None:
    assert encoded_bytes((64, 64), bits=8) == 21 + 16 * 4 + 4096
    assert encoded_bytes((64, 64), bits=4) == 21 + 16 * 4 + 2048
    assert encoded_bytes((64, 64), bits=32) == 21 + 4 * 4096


def test_an_array_larger_than_zstds_window_comes_back() -> None:
    arrays: Arrays = {"w": np.repeat(np.arange(3000, dtype=np.float32), 1000)}
    encoded = encode_model(arrays, bits=32, zstd=True)
    assert encoded["w"].nbytes < arrays["w"].nbytes / 10
    read = decode_model(encoded, max_bytes=arrays["w"].nbytes)
    np.testing.assert_array_equal(read["w"], arrays["w"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_not_encoded(bad) -> None:
    update, base = {"w": np.array([1.0, bad])}, {"w": np.zeros(2)}
    with pytest.raises(InvalidInputError, match=r"'w' cannot be encoded.*finite"):
        encode_update(update, base, bits=8, zstd=False, entropy=SeededEntropy())
    with pytest.raises(InvalidInputError, match=r"'w' cannot be encoded.*finite"):
        encode_model(update, bits=4, zstd=False)


def test_a_value_too_large_for_a_scale_is_not_encoded() -> None:
    with pytest.raises(InvalidInputError, match="too large"):
        encode_model({"w": np.array([1e300])}, bits=8, zstd=False)


@pytest.mark.parametrize(
    "update",
    [
        {"v": np.zeros(3, np.float32)},
        {"w": np.zeros(4, np.float32)},
        {"w": np.zeros(3, np.float64)},
        {},
    ],
    ids=["name", "shape", "dtype", "none"],
)
def test_other_arrays_than_the_models_are_not_encoded(update) -> None:
    base = {"w": np.zeros(3, np.float32)}
    with pytest.raises(InvalidInputError, match="other arrays"):
        encode_update(update, base, bits=8, zstd=False, entropy=SeededEntropy())


def test_a_residual_of_another_shape_is_not_added() -> None:
    update, base = {"w": _normal(1, 5)}, {"w": _normal(2, 5)}
    encoded = [
        encode_update(update, base, bits=8, zstd=False, entropy=SeededEntropy(), residual=residual)
        for residual in (None, {"w": np.ones(4, np.float32)}, {"other": np.ones(5, np.float32)})
    ]
    assert len({one.arrays["w"].tobytes() for one in encoded}) == 1


def _whole(data: bytes, count: int, bits: int) -> npt.NDArray[np.float64]:
    """What a body's values are by the rule, all at once: each code times the step of its block."""
    steps = np.frombuffer(data, "<f4", -(-count // BLOCK))
    codes = np.frombuffer(data, np.int8, offset=steps.nbytes).astype(np.int64)
    if bits == 4:
        nibbles = np.stack([codes & 15, (codes >> 4) & 15], axis=1).reshape(-1)
        codes = np.where(nibbles < 8, nibbles, nibbles - 16)
    return codes[:count] * np.repeat(steps.astype(np.float64), BLOCK)[:count]


COUNTS = [0, 1, BLOCK, BLOCK + 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + BLOCK + 3]


@given(
    count=st.sampled_from(COUNTS),
    bits=BITS,
    dtype=DTYPES,
    zstd=st.booleans(),
    seed=st.integers(0, 2**32),
    exponent=st.integers(-40, 38),
)
@settings(max_examples=60, deadline=None)
def test_reading_in_pieces_gives_the_bits_of_reading_at_once(
    count, bits, dtype, zstd, seed, exponent
) -> None:
    rng = np.random.default_rng(seed)
    steps = (rng.random(-(-count // BLOCK)) * 10.0**exponent).astype("<f4")
    largest = LARGEST[bits]
    codes = rng.integers(-largest, largest + 1, count + count % 2).astype(np.int8)
    codes[count:] = 0
    stored = codes[:count] if bits == 8 else (codes[0::2] & 15) | (codes[1::2] << 4)
    body = steps.tobytes() + stored.astype(np.int8).tobytes()
    parcel = wrap(Label(bits=bits, dtype=dtype.name, shape=(count,)), body, zstd=zstd)
    base = rng.standard_normal(count).astype(dtype)
    values = _whole(body, count, bits)
    with np.errstate(over="ignore"):
        model, update = values.astype(dtype), (base.astype(np.float64) + values).astype(dtype)
    read = decode_model({"w": parcel}, max_bytes=1 << 24)["w"]
    assert (read.dtype, read.tobytes()) == (dtype, model.tobytes())
    moved = decode_update({"w": parcel}, {"w": base}, bits=bits)["w"]
    assert (moved.dtype, moved.tobytes()) == (dtype, update.tobytes())


@pytest.mark.parametrize("zstd", [False, True])
@pytest.mark.parametrize("bits", [4, 8, 32])
def test_an_array_is_in_memory_once_while_it_is_unpacked(bits: int, zstd: bool) -> None:
    """16 MiB of float32: what there is beside it is two MiB, however large the array."""
    base: Arrays = {"w": np.resize(_normal(5, 4099), 4 << 20)}
    parcels = encode_model(base, bits=bits, zstd=zstd)
    reads = (
        lambda: decode_model(parcels, max_bytes=1 << 25)["w"],
        lambda: decode_update(parcels, base, bits=bits)["w"],
    )
    for read in reads:
        tracemalloc.start()
        try:
            assert read().nbytes == 16 << 20
            assert tracemalloc.get_traced_memory()[1] < 18 << 20
        finally:
            tracemalloc.stop()


# What follows comes from a merchant that does not keep to the rules.

BASE: Arrays = {"w": np.zeros((2, 3), np.float32)}
HONEST = Label(bits=8, dtype="float32", shape=(2, 3))


def _bytes(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _body(bits: int = 8) -> bytes:
    width = 4 if bits == 4 else 8
    return to_body(quantise(np.arange(6.0), width), width)


def _forged(label: Label, body: bytes, *, zstd: bool = False) -> npt.NDArray[np.uint8]:
    return _bytes(label.to_bytes(1 if zstd else 0) + body)


def _packed(data: bytes, **options: int | bool) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def _lying_frame() -> bytes:
    """A frame whose header says ten bytes and whose blocks hold a thousand."""
    small, large = _packed(bytes(10)), bytearray(_packed(bytes(1000), write_content_size=False))
    assert zstandard.get_frame_parameters(small).content_size == 10
    blocks = bytes(large)[zstandard.frame_header_size(bytes(large)) :]
    return small[: zstandard.frame_header_size(small)] + blocks


ATTACKS: dict[str, tuple[npt.NDArray[np.generic], str]] = {
    "no bytes": (np.zeros(30, np.float32), "no row of bytes"),
    "two dimensions": (np.zeros((3, 10), np.uint8), "no row of bytes"),
    "empty": (_bytes(b""), "shorter than a header"),
    "cut header": (_bytes(HONEST.to_bytes(0)[:9]), "damaged"),
    "other version": (_bytes(b"\x02" + HONEST.to_bytes(0)[1:] + _body()), "version 2"),
    "other packing": (_bytes(HONEST.to_bytes(7) + _body()), "packing 7"),
    "other dtype": (_forged(dataclasses.replace(HONEST, dtype="int8"), _body()), "int8"),
    "dtype unknown": (_bytes(bytes([1, 8, 0, 99, 2]) + bytes(40)), "damaged"),
    "too many dimensions": (_bytes(bytes([1, 8, 0, 0, 200]) + bytes(2000)), "damaged"),
    "other shape": (_forged(dataclasses.replace(HONEST, shape=(3, 2)), _body()), r"\[3, 2\]"),
    "flat shape": (_forged(dataclasses.replace(HONEST, shape=(6,)), _body()), r"\[6\]"),
    "giant shape": (_forged(dataclasses.replace(HONEST, shape=(2**60, 9)), _body()), "not float"),
    "other width": (_forged(dataclasses.replace(HONEST, bits=4), _body(4)), "in 4 bits"),
    "as it is": (_forged(dataclasses.replace(HONEST, bits=32), bytes(24)), "in 32 bits"),
    "unknown width": (_bytes(bytes([1, 9]) + HONEST.to_bytes(0)[2:] + _body()), "9 bits"),
    "short body": (_forged(HONEST, _body()[:-1]), "10 bytes that it promises"),
    "long body": (_forged(HONEST, _body() + b"\0"), "10 bytes that it promises"),
    "no body": (_forged(HONEST, b""), "10 bytes that it promises"),
    "scale NaN": (_forged(HONEST, np.float32(np.nan).tobytes() + bytes(6)), "scale"),
    "scale infinite": (_forged(HONEST, np.float32(np.inf).tobytes() + bytes(6)), "scale"),
    "scale negative": (_forged(HONEST, np.float32(-1).tobytes() + bytes(6)), "scale"),
    "code out of range": (_forged(HONEST, _body()[:-1] + b"\x80"), "below -127"),
    "bomb": (_forged(HONEST, _packed(bytes(1 << 26)), zstd=True), "smaller for being packed"),
    "no frame": (
        _forged(HONEST, b"\x28\xb5\x2f\xfd\xff\xff\xff\xff", zstd=True),
        "unpacked|promises",
    ),
}


@pytest.mark.parametrize(("parcel", "why"), ATTACKS.values(), ids=ATTACKS.keys())
def test_a_forged_array_is_refused_by_name(parcel, why) -> None:
    with pytest.raises(UpdateRejectedError, match=f"'w' cannot be read: .*{why}"):
        decode_update({"w": parcel}, BASE, bits=8)


def test_an_honest_array_of_that_form_is_taken() -> None:
    read = decode_update({"w": _forged(HONEST, _body())}, BASE, bits=8)["w"]
    assert read == pytest.approx(np.arange(6.0).reshape(2, 3), rel=0.02)


LARGE: Arrays = {"w": np.zeros(4000, np.float32)}
LARGE_LABEL = Label(bits=8, dtype="float32", shape=(4000,))

FRAMES: dict[str, Callable[[], bytes]] = {
    "bomb of 64 MiB": lambda: _packed(bytes(1 << 26), level=19, write_content_size=False)[:4000],
    "longer than it says": lambda: _packed(bytes(5000)),
    "shorter than it says": lambda: _packed(bytes(100)),
    "lying frame": _lying_frame,
    "cut frame": lambda: _packed(SeededEntropy().random_bytes(1000) + bytes(3064))[:500],
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_a_packed_body_of_another_length_is_refused(frame) -> None:
    with pytest.raises(UpdateRejectedError, match=r"unpacked|promises"):
        decode_update({"w": _forged(LARGE_LABEL, frame(), zstd=True)}, LARGE, bits=8)


@pytest.mark.parametrize("length", [0, 15_999, 16_001, 1 << 20])
def test_an_array_as_it_is_that_unpacks_to_another_length_is_refused(length: int) -> None:
    label = Label(bits=32, dtype="float32", shape=(4000,))
    with pytest.raises(UpdateRejectedError, match="16000 bytes that it promises"):
        decode_update({"w": _forged(label, _packed(bytes(length)), zstd=True)}, LARGE, bits=32)


@pytest.mark.parametrize("zstd", [False, True])
def test_a_code_out_of_range_is_found_in_the_last_piece_too(zstd: bool) -> None:
    count = PIECE + 5
    body = bytearray(to_body(quantise(np.zeros(count), 8), 8))
    body[-1] = 0x80
    label = Label(bits=8, dtype="float32", shape=(count,))
    with pytest.raises(UpdateRejectedError, match="below -127"):
        decode_update(
            {"w": wrap(label, bytes(body), zstd=zstd)},
            {"w": np.zeros(count, np.float32)},
            bits=8,
        )


def test_arrays_are_decoded_only_when_they_are_asked_for() -> None:
    base: Arrays = {"w": _normal(1, 9), "v": _normal(2, 4)}
    update: Arrays = {name: array + 1 for name, array in base.items()}
    sent = encode_update(update, base, bits=8, zstd=False, entropy=SeededEntropy()).arrays
    lazy = DecodedUpdate.of({**sent, "v": _bytes(b"rubbish")}, base, bits=8)
    assert list(lazy) == ["w", "v"]
    assert (lazy.spec("v").shape, lazy.spec("v").dtype) == ((4,), np.float32)
    np.testing.assert_array_equal(lazy["w"], decode_update(sent, base, bits=8)["w"])
    with pytest.raises(UpdateRejectedError, match="'v' cannot be read"):
        _ = lazy["v"]


def test_an_unused_half_byte_must_be_zero() -> None:
    body = bytearray(to_body(quantise(np.ones(3), 4), 4))
    ((place, quantised),) = pieces(io.BytesIO(body).read, 3, 4)
    assert (place, quantised.codes.tolist()) == (slice(0, 3), [7, 7, 7])
    body[-1] |= 0xF0
    label = Label(bits=4, dtype="float32", shape=(3,))
    with pytest.raises(UpdateRejectedError, match="unused half"):
        decode_update({"w": _forged(label, bytes(body))}, {"w": np.zeros(3, np.float32)}, bits=4)


@pytest.mark.parametrize("names", [[], ["v"], ["w", "v"]], ids=["none", "other", "more"])
def test_other_names_than_the_models_are_refused(names) -> None:
    with pytest.raises(UpdateRejectedError, match="not those of the round's model"):
        decode_update({name: _forged(HONEST, _body()) for name in names}, BASE, bits=8)


@pytest.mark.parametrize(
    "label",
    [
        Label(bits=8, dtype="float32", shape=(2**40,)),
        Label(bits=32, dtype="float64", shape=(2**62, 2**62)),
        Label(bits=4, dtype="float64", shape=(LIMIT // 8 + 1,)),
    ],
)
def test_a_model_larger_than_the_client_takes_is_refused_before_it_is_unpacked(label) -> None:
    with pytest.raises(InvalidInputError, match="exceed"):
        decode_model({"w": _forged(label, b"")}, max_bytes=LIMIT)


@given(data=st.binary(max_size=200))
@settings(max_examples=300)
def test_no_bytes_raise_anything_but_the_one_error(data) -> None:
    with pytest.raises(UpdateRejectedError):
        decode_update({"w": _bytes(data)}, BASE, bits=8)
    with contextlib.suppress(InvalidInputError):
        decode_model({"w": _bytes(data)}, max_bytes=LIMIT)


@given(place=st.integers(0, 30), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_as_finite_numbers(place, value) -> None:
    data = bytearray(wrap(HONEST, _body(), zstd=False).tobytes())
    data[place] = value
    try:
        read = decode_update({"w": _bytes(bytes(data))}, BASE, bits=8)["w"]
    except UpdateRejectedError:
        return
    assert read.shape == (2, 3)
