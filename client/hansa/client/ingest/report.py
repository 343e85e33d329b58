"""What became of the rows of an export: counts, reasons and row numbers, never contents."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from hansa.client.ingest.cleaning import Reason
from hansa.client.ingest.columns import Columns

EXAMPLES = 3
"""So many row numbers are kept for each reason."""

_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}")
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,4}\d{2,4}"  # +49 30 1234567
    r"|\(\d{2,5}\)[ .-]?\d{3,4}[ .-]?\d{3,4}"  # (030) 1234 5678
    r"|\d{3}[ .-]\d{3,4}[ .-]\d{4}"  # 555-867-5309, 138 0013 8000
    r"|1[3-9]\d{9}"  # a Chinese mobile number
    r")(?![\w-])"
)
_SCANNED_CHARS = 2000
_NEVER_PERSONAL = frozenset({"item_id", "time", "kind", "price", "quantity", "currency"})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Dropped(_Part):
    """The rows that were dropped for one reason."""

    reason: Reason
    rows: int
    example_rows: tuple[int, ...]
    """The numbers of the first few, counted as in ``RawRow``."""


class FileReport(_Part):
    """What became of one file's rows; ``rows_kept`` and ``dropped`` add up to ``rows_read``."""

    rows_read: int
    rows_kept: int
    dropped: tuple[Dropped, ...]
    """The most frequent reason first."""
    unused_columns: tuple[str, ...]
    personal_data_columns: tuple[str, ...]
    """Columns in which something looks like an e-mail address or a telephone number."""

    @property
    def duplicates(self) -> int:
        """Rows that repeat an earlier item or event."""
        return self.rows_dropped(Reason.DUPLICATE_ITEM) + self.rows_dropped(Reason.DUPLICATE_EVENT)

    def rows_dropped(self, reason: Reason) -> int:
        """How many rows were dropped for this reason."""
        return sum(entry.rows for entry in self.dropped if entry.reason is reason)


class QualityReport(_Part):
    """What the merchant is shown after an ingest; it stays on the site."""

    catalogue: FileReport
    events: FileReport
    shoppers: int
    """Distinct shoppers with at least one event that was kept."""

    def sentences(self) -> list[str]:
        """The report in words, one line each."""
        lines = _sentences("catalogue", self.catalogue) + _sentences("events", self.events)
        return [*lines, f"events: they belong to {self.shoppers} shoppers"]


class Tally:
    """Counts one file's rows while they stream by."""

    def __init__(self, columns: Columns) -> None:
        """Nothing has been read yet."""
        self._columns = columns
        self._watched = [
            column
            for column in columns.found
            if column not in {columns.by_field.get(field) for field in _NEVER_PERSONAL}
        ]
        self._personal: set[str] = set()
        self._kept = 0
        self._rows: Counter[Reason] = Counter()
        self._examples: defaultdict[Reason, list[int]] = defaultdict(list)

    def keep(self) -> None:
        """One more row is used."""
        self._kept += 1

    def drop(self, reason: Reason, number: int) -> None:
        """One more row is not."""
        self._rows[reason] += 1
        if len(self._examples[reason]) < EXAMPLES:
            self._examples[reason].append(number)

    def watch(self, cells: Mapping[str, Any] | None) -> None:
        """Looks for personal data in a raw row's text cells."""
        for column in self._watched:
            cell = cells.get(column) if cells else None
            if isinstance(cell, str) and column not in self._personal and _looks_personal(cell):
                self._personal.add(column)

    def report(self) -> FileReport:
        """The counts so far."""
        ordered = sorted(self._rows.items(), key=lambda entry: (-entry[1], entry[0]))
        used = set(self._columns.by_field.values())
        return FileReport(
            rows_read=self._kept + self._rows.total(),
            rows_kept=self._kept,
            dropped=tuple(
                Dropped(reason=reason, rows=rows, example_rows=tuple(self._examples[reason]))
                for reason, rows in ordered
            ),
            unused_columns=tuple(name for name in self._columns.found if name not in used),
            personal_data_columns=tuple(
                name for name in self._columns.found if name in self._personal
            ),
        )


def _looks_personal(cell: str) -> bool:
    cell = cell[:_SCANNED_CHARS]
    if "@" in cell and _EMAIL.search(cell):
        return True
    return sum(letter.isdigit() for letter in cell) >= 9 and _PHONE.search(cell) is not None


def _sentences(name: str, report: FileReport) -> list[str]:
    lines = [f"{name}: {report.rows_kept} of {report.rows_read} rows kept"]
    for entry in report.dropped:
        examples = ", ".join(map(str, entry.example_rows))
        lines.append(f"{name}: {entry.rows} dropped, {entry.reason} (such as row {examples})")
    for column in report.personal_data_columns:
        lines.append(
            f"{name}: the column '{column}' looks like personal data; leave it out of the export"
        )
    return lines
