"""The safetensors layout: the same bytes as the library's, and nothing believed that is not so."""

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from hansa.core.content import Content, stored_arrays
from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.core.tensors import (
    MAX_HEADER_BYTES,
    StoredArrays,
    array_bytes,
    file_order,
    header_bytes,
    header_length_at,
    layout_at,
    layout_of,
    spec_of,
)

DTYPES = (
    np.bool_, np.uint8, np.int8, np.int16, np.uint16, np.float16, np.int32, np.uint32, np.float32,
    np.complex64, np.float64, np.int64, np.uint64,
)  # fmt: skip
some_arrays = st.dictionaries(
    st.text(max_size=6).filter(lambda name: name != "__metadata__"),
    hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)),
    max_size=6,
)


def written(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    specs = {name: spec_of(arrays, name) for name in arrays}
    pieces = [header_bytes(specs, metadata), *(array_bytes(arrays[n]) for n in file_order(specs))]
    return b"".join(pieces)


@given(some_arrays, st.text(max_size=5))
def test_the_file_is_byte_for_byte_that_of_the_safetensors_library(arrays, text) -> None:
    assert written(arrays, {"note": text}) == save(arrays, {"note": text})


@given(some_arrays)
def test_what_the_library_wrote_is_found_where_it_is(arrays) -> None:
    data = save(arrays, {"a": "b"})
    layout = layout_of(data)
    assert layout.metadata == {"a": "b"}
    assert layout.places.keys() == load(data).keys()
    for name, place in layout.places.items():
        assert data[place.begin : place.begin + place.spec.size_bytes] == arrays[name].tobytes()


def test_other_byte_orders_are_written_as_little_endian() -> None:
    big = np.arange(3, dtype=">f4")
    assert load(written({"a": big}, {}))["a"].tolist() == [0.0, 1.0, 2.0]


def test_a_type_that_the_layout_has_no_word_for_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="complex128"):
        written({"a": np.zeros(1, np.complex128)}, {})


def test_a_name_that_utf_8_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="UTF-8"):
        written({"\ud800": np.zeros(1)}, {})


def forged(header: object, body: int, *, length: int | None = None) -> bytes:
    """A file with this header and so many bytes of values."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    count = len(text) if length is None else length
    return count.to_bytes(8, "little") + text + bytes(body)


def one(dtype: object = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


TWICE = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},' * 2 + b'"b":{}}'
HOSTILE = {
    "nothing": b"",
    "no-header": bytes(8),
    "header-beyond-the-end": forged(one(), 4, length=1 << 40),
    "header-cut-short": forged(one(), 4)[:20],
    "no-json": forged(b"\xff\xfe", 0),
    "no-object": forged([1, 2], 0),
    "deeply-nested": forged(b"[" * 100_000, 0),
    "not-a-number": forged(b'{"a":NaN}', 0),
    "huge-number": forged(b'{"a":' + b"9" * 10_000 + b"}", 0),
    "name-twice": forged(TWICE, 1),
    "unknown-type": forged(one("BF16", (2,)), 4),
    "type-is-a-list": forged(one(["U8"]), 4),
    "wrong-length": forged(one(shape=(5,)), 4),
    "negative": forged(one(shape=(-4,)), 4),
    "two-negatives": forged(one(shape=(-2, -2)), 4),
    "fraction": forged(one(shape=(4.0,)), 4),
    "truth": forged(one(shape=(4, True)), 4),
    "backwards": forged(one(offsets=(4, 0)), 4),
    "beyond-the-end": forged(one(), 3),
    "leaves-a-rest": forged(one(), 5),
    "begins-late": forged(one(offsets=(1, 5)), 5),
    "three-offsets": forged(one(offsets=(0, 4, 4)), 4),
    "extra-field": forged({"a": {**one()["a"], "more": 1}}, 4),
    "too-many-dimensions": forged(one(shape=(1,) * 40 + (4,)), 4),
    "larger-than-any-array": forged(one(shape=(0, 1 << 40, 1 << 40), offsets=(0, 0)), 0),
    "overlap": forged({**one(), "b": one(offsets=(2, 6))["a"]}, 6),
    "same-bytes-twice": forged({**one(), "b": one()["a"]}, 4),
    "gap": forged({**one(), "b": one(offsets=(5, 9))["a"]}, 9),
    "metadata-is-a-list": forged({"__metadata__": ["hansa"]}, 0),
    "metadata-holds-a-number": forged({"__metadata__": {"hansa": 1}}, 0),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_in_memory_and_on_the_disk_alike(
    data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    for read in (lambda: layout_of(data), lambda: layout_at(path), lambda: Content.open(path)):
        with pytest.raises(InvalidInputError):
            read()


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A sparse file: its header would be a byte more than is read."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(InvalidInputError, match="at most"):
        layout_at(path)


def test_a_headers_length_is_known_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(forged(one(), 4))
    assert header_length_at(path) == path.stat().st_size - 8 - 4
    assert layout_at(path, max_header_bytes=header_length_at(path)).places.keys() == {"a"}
    path.write_bytes(forged(b"no JSON", 0))
    assert header_length_at(path) == 7
    path.write_bytes(forged(one(), 4, length=1 << 40))
    with pytest.raises(InvalidInputError, match="cut short"):
        header_length_at(path)
    path.unlink()
    with pytest.raises(NotFoundError):
        header_length_at(path)


@given(st.binary(max_size=60), st.integers(0, 60))
def test_no_bytes_raise_anything_but_a_named_error(data: bytes, length: int) -> None:
    for file in (data, length.to_bytes(8, "little") + data):
        try:
            layout_of(file)
        except InvalidInputError:
            continue


ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(0.5, np.float32)}
CONTENT = Content(arrays={"arrays": ARRAYS}, metrics={"metrics": {"num-examples": 1}})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(CONTENT.to_bytes())
    return path


class TestStoredArrays:
    def test_each_is_read_when_it_is_asked_for_into_memory_of_its_own(self, path: Path) -> None:
        arrays = Content.open(path).arrays["arrays"]
        assert isinstance(arrays, StoredArrays)
        assert list(arrays) == ["w", "b"]
        first, second = arrays["w"], arrays["w"]
        first[:] = 0
        np.testing.assert_array_equal(second, ARRAYS["w"])
        assert arrays["b"].shape == ()

    def test_type_and_shape_are_known_without_reading(self, path: Path) -> None:
        arrays = stored_arrays(path, "arrays")
        path.unlink()
        assert arrays.spec("w").shape == (2, 3)
        assert arrays.spec("b").dtype == np.float32

    def test_a_content_of_stored_arrays_is_written_as_the_same_bytes(self, path: Path) -> None:
        assert Content.open(path).to_bytes() == CONTENT.to_bytes()

    def test_a_file_that_was_cut_short_meanwhile_is_named(self, path: Path) -> None:
        arrays = stored_arrays(path, "arrays")
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 4)
        with pytest.raises(NotFoundError, match="cut short"):
            dict(arrays)

    def test_a_file_that_is_gone_is_named(self, path: Path) -> None:
        arrays = stored_arrays(path, "arrays")
        path.unlink()
        with pytest.raises(NotFoundError, match="cannot be read"):
            arrays["w"]
        with pytest.raises(NotFoundError, match="cannot be read"):
            Content.open(path)

    def test_no_file_stays_open_for_its_own_sake(self, tmp_path: Path) -> None:
        """Thousands of contents may be opened; the last few alone are kept open."""
        before = len(list(Path("/proc/self/fd").iterdir()))
        contents = []
        for number in range(40):
            path = tmp_path / str(number)
            path.write_bytes(CONTENT.to_bytes())
            contents.append(stored_arrays(path, "arrays"))
            assert contents[-1]["b"] == np.float32(0.5)
        gc.collect()
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 10

    def test_a_record_that_the_file_lacks_is_named(self, path: Path) -> None:
        with pytest.raises(InvalidInputError, match="'others'"):
            stored_arrays(path, "others")


def test_arrays_that_belong_to_no_record_are_refused() -> None:
    order = json.dumps({"order": {"arrays": ["a"]}, "metrics": {}, "configs": {}})
    arrays = {"arrays:a": np.zeros(1), "arrays:hidden": np.zeros(1)}
    with pytest.raises(InvalidInputError, match="no record"):
        Content.from_bytes(save(arrays, {"hansa": order}))


def test_merged_contents_hold_the_records_of_all() -> None:
    settings = Content(configs={"config": {"server-round": 3}})
    merged = Content.merged([CONTENT, settings])
    assert (list(merged.arrays), merged.metrics, merged.configs) == (
        ["arrays"],
        CONTENT.metrics,
        settings.configs,
    )
