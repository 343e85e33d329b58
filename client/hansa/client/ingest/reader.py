"""Rows of a CSV, Parquet or JSON lines file, read as a stream, in bounded memory.

A file that cannot be read at all is one error; a row that cannot be read is a row without cells, so
that one broken line does not cost the merchant the other million.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hansa.core.errors import InvalidInputError, NotFoundError

SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")

_DELIMITERS = ",;\t|"
_PEEKED_ROWS = 1000
"""JSON lines have no header: the columns are those of so many first rows."""


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """What a file may ask of this machine."""

    max_file_bytes: int = 8 << 30
    max_rows: int = 50_000_000
    max_line_chars: int = 1 << 20
    """A longer line of a text file is one unreadable row."""
    batch_rows: int = 10_000
    """So many rows of a Parquet file are unpacked at a time."""


DEFAULT_LIMITS = ReadLimits()


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRow:
    """One row as the file has it."""

    number: int
    """Counted from 1; a CSV's header is not counted, nor are blank lines."""
    cells: Mapping[str, Any] | None
    """By column; absent: the row cannot be read."""


class Export:
    """One export file, open for one pass over its rows.

    Args:
        path: a file that ends in .csv, .parquet, .jsonl or .ndjson; text is UTF-8.
        limits: what is refused as too large.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: it is a folder, of another kind, too large, wrongly encoded or empty.
    """

    def __init__(self, path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> None:
        """Checks the file and reads its column names."""
        _check_file(path, limits)
        self._path = path
        self._limits = limits
        self.columns = self._read_columns()

    def rows(self) -> Iterator[RawRow]:
        """Every row in the file's order.

        Raises:
            InvalidInputError: the file is damaged or wrongly encoded, or has too many rows.
        """
        for number, cells in enumerate(self._all_cells(), start=1):
            if number > self._limits.max_rows:
                raise InvalidInputError(
                    f"{self._path} has more than {self._limits.max_rows} rows; split the export"
                )
            yield RawRow(number=number, cells=cells)

    def _read_columns(self) -> tuple[str, ...]:
        match self._path.suffix.lower():
            case ".csv":
                return _csv_header(self._path, self._limits)[1]
            case ".parquet":
                return _parquet_columns(self._path)
            case _:
                return _json_columns(self._path, self._limits)

    def _all_cells(self) -> Iterator[Mapping[str, Any] | None]:
        match self._path.suffix.lower():
            case ".csv":
                return _csv_cells(self._path, self._limits)
            case ".parquet":
                return _parquet_cells(self._path, self._limits)
            case _:
                return _json_cells(self._path, self._limits)


class _Lines:
    """A text file's lines; one that is too long raises ``csv.Error`` and is passed over.

    A class and not a generator, because a generator ends with its first exception.
    """

    def __init__(self, file: TextIO, path: Path, limits: ReadLimits) -> None:
        self._file = file
        self._path = path
        self._max = limits.max_line_chars

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._read()
        if not line:
            raise StopIteration
        if len(line) <= self._max:
            return line
        while line and not line.endswith("\n"):
            line = self._read()
        raise csv.Error("the line is too long")

    def _read(self) -> str:
        try:
            return self._file.readline(self._max + 1)
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"{self._path} is not UTF-8 text; save the export again with the encoding UTF-8"
            ) from error


def _check_file(path: Path, limits: ReadLimits) -> None:
    if not path.exists():
        raise NotFoundError(f"there is no file {path}; check the path of the export")
    if not path.is_file():
        raise InvalidInputError(f"{path} is not a file; name the export itself")
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInputError(f"{path} is of an unknown kind; export {', '.join(SUFFIXES)}")
    if path.stat().st_size > limits.max_file_bytes:
        raise InvalidInputError(
            f"{path} is larger than {limits.max_file_bytes} bytes; split the export"
        )


def _open_text(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InvalidInputError(
            f"cannot read {path}: {error.strerror}; check its permissions"
        ) from error


def _csv_header(path: Path, limits: ReadLimits) -> tuple[str, tuple[str, ...]]:
    """The delimiter (the candidate that the first line has most of) and the column names."""
    try:
        with _open_text(path) as file:
            line = next(_Lines(file, path, limits), "")
        delimiter = max(_DELIMITERS, key=line.count)
        names = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as error:
        raise InvalidInputError(
            f"the first line of {path} does not name the columns; export it again as CSV"
        ) from error
    if not names:
        raise InvalidInputError(f"{path} is empty; its first line must name the columns")
    return delimiter, tuple(name.strip() for name in names)


def _csv_cells(path: Path, limits: ReadLimits) -> Iterator[dict[str, Any] | None]:
    delimiter, columns = _csv_header(path, limits)
    with _open_text(path) as file:
        reader = csv.reader(_Lines(file, path, limits), delimiter=delimiter)
        next(reader)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield None
                continue
            if row:
                yield dict(zip(columns, row, strict=True)) if len(row) == len(columns) else None


def _json_cells(path: Path, limits: ReadLimits) -> Iterator[dict[str, Any] | None]:
    with _open_text(path) as file:
        lines = _Lines(file, path, limits)
        while True:
            try:
                line = next(lines)
                value = json.loads(line) if line.strip() else ...
            except StopIteration:
                return
            except (csv.Error, ValueError, RecursionError):
                yield None
                continue
            if value is not ...:
                yield value if isinstance(value, dict) else None


def _json_columns(path: Path, limits: ReadLimits) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for _, cells in zip(range(_PEEKED_ROWS), _json_cells(path, limits), strict=False):
        names.update(dict.fromkeys(cells or ()))
    if not names:
        raise InvalidInputError(f"{path} has no JSON object in its first lines; check the export")
    return tuple(names)


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
        _ = file.schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} is not a whole Parquet file; export it again") from error
    return file


def _parquet_columns(path: Path) -> tuple[str, ...]:
    with _open_parquet(path) as file:
        return tuple(file.schema_arrow.names)


def _parquet_cells(path: Path, limits: ReadLimits) -> Iterator[dict[str, Any] | None]:
    with _open_parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=limits.batch_rows):
                yield from _unpack(batch)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{path} is damaged; export it again") from error


def _unpack(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Times become ISO 8601 text, since a Python datetime cannot hold every time that Arrow can."""
    columns = [
        pc.cast(column, pa.string()) if pa.types.is_temporal(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()
