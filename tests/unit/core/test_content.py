import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load

from hansa.core.content import MAX_RECORDS, Content
from hansa.core.errors import InvalidInputError

values = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.lists(st.booleans(), max_size=3),
)
records = st.dictionaries(
    st.text("abc-", min_size=1, max_size=4), st.dictionaries(st.text(max_size=5), values)
)


@given(metrics=records, configs=records)
def test_settings_come_back_with_their_types(metrics, configs) -> None:
    content = Content.from_bytes(Content(metrics=metrics, configs=configs).to_bytes())
    assert repr(content.metrics) == repr(metrics)
    assert repr(content.configs) == repr(configs)


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.int64, np.uint8]), hnp.array_shapes(min_dims=0, max_side=4)
    )
)
def test_arrays_come_back_bit_for_bit(array) -> None:
    content = Content.from_bytes(Content(arrays={"arrays": {"a": array}}).to_bytes())
    back = content.arrays["arrays"]["a"]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_a_column_major_array_keeps_its_values() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    back = Content.from_bytes(Content(arrays={"arrays": {"a": array}}).to_bytes()).arrays["arrays"][
        "a"
    ]
    np.testing.assert_array_equal(back, array)


def test_the_order_of_arrays_is_kept() -> None:
    arrays = {name: np.zeros(1, np.float32) for name in ("z", "a", "m")}
    assert list(
        Content.from_bytes(Content(arrays={"arrays": arrays}).to_bytes()).arrays["arrays"]
    ) == ["z", "a", "m"]


def test_any_safetensors_reader_can_open_what_leaves() -> None:
    data = Content(arrays={"arrays": {"tower": np.ones((2, 2), np.float32)}}).to_bytes()
    np.testing.assert_array_equal(load(data)["arrays:tower"], np.ones((2, 2)))


@pytest.mark.parametrize("data", [b"", b"12345678", b"\x00" * 64, json.dumps({"a": 1}).encode()])
def test_bytes_that_are_no_content_file_are_refused(data) -> None:
    with pytest.raises(InvalidInputError):
        Content.from_bytes(data)


@given(st.binary(max_size=200))
def test_no_bytes_from_outside_raise_anything_but_a_named_error(data) -> None:
    try:
        Content.from_bytes(data)
    except InvalidInputError:
        return


def test_a_metric_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        Content(metrics={"metrics": {"loss": float("nan")}}).to_bytes()


def settings_file(configs: object, order: object = None) -> bytes:
    """A content file as it lies on the wire, whatever its settings are."""
    inner = json.dumps({"order": order or {}, "metrics": {}, "configs": configs})
    head = json.dumps({"__metadata__": {"hansa": inner}}).encode()
    return len(head).to_bytes(8, "little") + head


@pytest.mark.parametrize("value", [[[]], [[1], [2]], [{"base64": [""]}], [{}], [None], {}, None])
def test_a_value_is_one_or_a_flat_list(value, tmp_path) -> None:
    """Lists within lists take much memory for few bytes, and no record of Flower's holds them."""
    path = tmp_path / "file"
    path.write_bytes(settings_file({"c": {"v": value}}))
    with pytest.raises(InvalidInputError, match="not a Hansa content file"):
        Content.open(path)


def test_lists_within_lists_are_not_written_either() -> None:
    with pytest.raises(InvalidInputError, match="list of lists"):
        Content(configs={"c": {"v": [[1]]}}).to_bytes()


def test_a_message_of_very_many_records_is_neither_read_nor_written() -> None:
    """A file of a few bytes for each would take kilobytes for each in memory."""
    most: dict[str, dict[str, int]] = {str(number): {} for number in range(MAX_RECORDS)}
    written = Content(configs=most).to_bytes()
    assert len(Content.from_bytes(written).configs) == MAX_RECORDS
    with pytest.raises(InvalidInputError, match="1001 records"):
        Content(configs=most, metrics={"one": {}}).to_bytes()
    for data in (settings_file({**most, "one": {}}), settings_file(most, {"one": []})):
        with pytest.raises(InvalidInputError, match="1001 records"):
            Content.from_bytes(data)


def test_whoever_reads_for_strangers_takes_no_longer_header_than_it_names(tmp_path) -> None:
    path = tmp_path / "file"
    data = settings_file({"c": {"v": ["x" * 1000]}})
    path.write_bytes(data)
    length = len(data) - 8
    assert Content.open(path, max_header_bytes=length).configs["c"]["v"] == ["x" * 1000]
    with pytest.raises(InvalidInputError, match=f"{length} bytes long, where at most {length - 1}"):
        Content.open(path, max_header_bytes=length - 1)


def test_a_record_name_with_a_colon_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="colon"):
        Content(arrays={"a:b": {"c": np.zeros(1)}}).to_bytes()
