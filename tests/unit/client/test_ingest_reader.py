"""The rules of reading an export file."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hansa.client.ingest.reader import DEFAULT_LIMITS, Export, ReadLimits
from hansa.core.errors import InvalidInputError, NotFoundError


def rows_of(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> list[tuple[int, Any]]:
    return [(row.number, row.cells) for row in Export(path, limits).rows()]


def write(tmp_path: Path, name: str, data: bytes | str) -> Path:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_csv_json_lines_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{"id": "1", "name": "披萨, groß"}, {"id": "2", "name": 'a "quoted"\nname'}]
    csv_path = write(tmp_path, "a.csv", 'id,name\n1,"披萨, groß"\n2,"a ""quoted""\nname"\n')
    json_path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    parquet_path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), parquet_path)
    expected = [(1, rows[0]), (2, rows[1])]
    assert rows_of(csv_path) == rows_of(json_path) == rows_of(parquet_path) == expected
    assert Export(csv_path).columns == Export(json_path).columns == ("id", "name")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_taken_from_the_first_line(tmp_path: Path, delimiter: str) -> None:
    path = write(tmp_path, "a.csv", f"id{delimiter}name\n1{delimiter}x\n")
    assert rows_of(path) == [(1, {"id": "1", "name": "x"})]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"\xef\xbb\xbfid,name\n1,x\n")
    assert Export(path).columns == ("id", "name")
    assert Export(write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"id": 1}')).columns == ("id",)


def test_blank_lines_are_not_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "id,name\n\n1,x\n\n")
    assert rows_of(path) == [(1, {"id": "1", "name": "x"})]
    assert rows_of(write(tmp_path, "a.jsonl", '\n{"id": 1}\n\n')) == [(1, {"id": 1})]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "gbk"])
def test_another_encoding_is_one_clear_error(tmp_path: Path, encoding: str) -> None:
    text = "id,name\n1,größe\n" if encoding == "latin-1" else "id,name\n1,披萨\n"
    path = write(tmp_path, "a.csv", text.encode(encoding))
    with pytest.raises(InvalidInputError, match="is not UTF-8 text; save the export again"):
        rows_of(path)


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no file"):
        Export(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidInputError, match="is not a file"):
        Export(tmp_path / "folder.csv")


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="unknown kind"):
        Export(write(tmp_path, "a.xlsx", b"PK"))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError):
        Export(write(tmp_path, name, b""))


@pytest.mark.parametrize("data", [b"PAR1", b"not parquet at all", b"PAR1" + b"\x00" * 64 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidInputError, match="not a whole Parquet file"):
        Export(write(tmp_path, "a.parquet", data))


def test_a_parquet_file_with_damaged_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": list(map(str, range(1000)))}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[40:400] = b"\xff" * 360
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match="damaged; export it again"):
        rows_of(path)


def test_a_row_with_too_few_or_too_many_cells_is_unreadable_and_the_rest_is_read(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "a.csv", "id,name\n1\n2,x,y\n3,z\n")
    assert rows_of(path) == [(1, None), (2, None), (3, {"id": "3", "name": "z"})]


def test_a_ten_megabyte_title_is_one_unreadable_row(tmp_path: Path) -> None:
    long = "x" * 10_000_000
    path = write(tmp_path, "a.csv", f"id,name\n1,{long}\n2,y\n")
    assert rows_of(path) == [(1, None), (2, {"id": "2", "name": "y"})]
    path = write(tmp_path, "a.jsonl", f'{{"id": "1", "name": "{long}"}}\n{{"id": "2"}}\n')
    assert rows_of(path) == [(1, None), (2, {"id": "2"})]


def test_a_nul_byte_costs_one_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"id,name\n1,a\x00b\n2,y\n")
    assert rows_of(path)[-1] == (2, {"id": "2", "name": "y"})


def test_an_unclosed_quote_cannot_swallow_the_file_into_memory(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'id,name\n1,"open\n' + "2,y\n" * 100_000)
    rows = rows_of(path)
    assert rows[0] == (1, None)
    assert rows[-1][1] == {"id": "2", "name": "y"}


@pytest.mark.parametrize(
    "line", ["[1, 2]", "{broken", "null", "[" * 100_000, '{"id": ' + "9" * 5000 + "}"]
)
def test_a_line_that_is_no_json_object_is_unreadable_and_the_rest_is_read(
    tmp_path: Path, line: str
) -> None:
    path = write(tmp_path, "a.jsonl", f'{{"id": "1"}}\n{line}\n{{"id": "3"}}\n')
    assert rows_of(path) == [(1, {"id": "1"}), (2, None), (3, {"id": "3"})]


def test_times_of_parquet_become_text_even_where_python_has_no_such_time(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    times = pa.array([0, 2**62], pa.int64()).cast(pa.timestamp("us"))
    pq.write_table(pa.table({"time": times}), path)
    first, second = (cells["time"] for _, cells in rows_of(path))
    assert first == "1970-01-01 00:00:00.000000"
    assert isinstance(second, str)


def test_a_file_or_a_row_count_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "id\n1\n2\n3\n")
    with pytest.raises(InvalidInputError, match="more than 2 rows; split the export"):
        rows_of(path, ReadLimits(max_rows=2))
    with pytest.raises(InvalidInputError, match="larger than 5 bytes; split the export"):
        rows_of(path, ReadLimits(max_file_bytes=5))
