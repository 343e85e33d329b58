"""The two exports of a shop, read and cleaned side by side: rows in, items and events out."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from hansa.client.ingest.cleaning import DroppedRowError, Reason, clean_event, clean_item
from hansa.client.ingest.columns import Columns, check_mapping, refuse_unused, resolve_columns
from hansa.client.ingest.reader import DEFAULT_LIMITS, Export, RawRow, ReadLimits
from hansa.client.ingest.report import FileReport, Tally
from hansa.core.catalogue import Event, Item
from hansa.core.errors import InvalidInputError

_T = TypeVar("_T", Item, Event)


class Ingestion:
    """One pass over a catalogue and the events that belong to it.

    ``items`` is read first, then ``events()`` streams; after that the two reports are complete. The
    memory used grows with the catalogue and by 16 bytes' digest for each event, not with the files.

    Args:
        catalogue: the file of items.
        events: the file of events.
        mapping: our field to their column, see ``parse_mapping``.
        now: aware; later events are impossible.
        limits: what is refused as too large.

    Raises:
        NotFoundError: a file does not exist.
        InvalidInputError: a file cannot be read, lacks a column, or holds not one usable row.
    """

    def __init__(
        self,
        catalogue: Path,
        events: Path,
        *,
        mapping: Mapping[str, str],
        now: datetime,
        limits: ReadLimits = DEFAULT_LIMITS,
    ) -> None:
        """Checks both files' columns, then reads the whole catalogue."""
        if now.tzinfo is None:
            raise InvalidInputError("the present time has no time zone; pass an aware UTC time")
        check_mapping(mapping)
        catalogue_file, self._event_file = Export(catalogue, limits), Export(events, limits)
        columns = resolve_columns("catalogue", catalogue_file.columns, mapping)
        self._columns = resolve_columns("events", self._event_file.columns, mapping)
        refuse_unused(mapping, (columns, self._columns))
        self._now = now
        self._tally = Tally(self._columns)
        self.items, self.catalogue_report = _read_items(catalogue_file, columns)

    def events(self) -> Iterator[Event]:
        """Every usable event, in the file's order; to be read once.

        Raises:
            InvalidInputError: the file is damaged, or not one of its rows is usable.
        """
        known = {item.item_id for item in self.items}
        seen: set[bytes] = set()

        def check(row: RawRow) -> Event:
            event = clean_event(row.cells, self._columns, self._now)
            _refuse_stranger(event, known, seen)
            return event

        yield from _kept(self._event_file, self._tally, check)
        _refuse_useless("events", self._tally.report())

    @property
    def event_report(self) -> FileReport:
        """What became of the event rows read so far."""
        return self._tally.report()


def _read_items(file: Export, columns: Columns) -> tuple[tuple[Item, ...], FileReport]:
    seen: set[str] = set()

    def check(row: RawRow) -> Item:
        item = clean_item(row.cells, columns)
        if item.item_id in seen:
            raise DroppedRowError(Reason.DUPLICATE_ITEM)
        seen.add(item.item_id)
        return item

    tally = Tally(columns)
    items = tuple(_kept(file, tally, check))
    _refuse_useless("catalogue", tally.report())
    if not items:
        raise InvalidInputError("the catalogue has no rows; export the shop's items")
    return items, tally.report()


def _kept(file: Export, tally: Tally, check: Callable[[RawRow], _T]) -> Iterator[_T]:
    """What ``check`` makes of each row that it does not drop."""
    for row in file.rows():
        tally.watch(row.cells)
        try:
            value = check(row)
        except DroppedRowError as dropped:
            tally.drop(dropped.reason, row.number)
        else:
            tally.keep()
            yield value


def _refuse_stranger(event: Event, known: set[str], seen: set[bytes]) -> None:
    if event.item_id not in known:
        raise DroppedRowError(Reason.UNKNOWN_ITEM)
    fingerprint = hashlib.blake2b(event.model_dump_json().encode(), digest_size=16).digest()
    if fingerprint in seen:
        raise DroppedRowError(Reason.DUPLICATE_EVENT)
    seen.add(fingerprint)


def _refuse_useless(name: str, report: FileReport) -> None:
    if report.rows_read and not report.rows_kept:
        reasons = Counter({entry.reason: entry.rows for entry in report.dropped})
        raise InvalidInputError(
            f"not one of the {report.rows_read} rows of the {name} file is usable, most often for: "
            f"{reasons.most_common(1)[0][0]}; check the columns and pass --map where they differ"
        )
