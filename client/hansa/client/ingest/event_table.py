"""Events as columns: grouped by shopper, ordered by time, without one id that a shopper has."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hansa.client.ingest.pseudonyms import PseudonymKey
from hansa.core.catalogue import EARLIEST, EVENT_KINDS, Event, Item

EVENT_SCHEMA = pa.schema(
    [
        ("shopper", pa.dictionary(pa.int32(), pa.string())),
        ("time", pa.timestamp("us", tz="UTC")),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("item", pa.int32()),
        ("query", pa.dictionary(pa.int32(), pa.string())),
        ("session", pa.dictionary(pa.int32(), pa.string())),
        ("quantity", pa.float64()),
        ("price", pa.float64()),
    ]
)
"""``item`` is the item's place in the items' table."""

_EPOCH = EARLIEST.replace(year=1970)
_KIND_CODE: Mapping[str, int] = {kind: code for code, kind in enumerate(EVENT_KINDS)}


class EventColumns:
    """Gathers events one by one at some 40 bytes each; ``table`` orders them at the end."""

    def __init__(self, items: Sequence[Item], key: PseudonymKey) -> None:
        """No events yet, of the shop that sells these items."""
        self._key = key
        self._place = {item.item_id: place for place, item in enumerate(items)}
        self._shoppers: dict[str, int] = {}
        self._sessions: dict[str, int] = {}
        self._queries: dict[str, int] = {}
        self._codes = {name: array("i") for name in ("shopper", "item", "kind", "query", "session")}
        self._times = array("q")
        self._numbers = {name: array("d") for name in ("quantity", "price")}

    def add(self, event: Event) -> None:
        """One more event; its item must be among the shop's."""
        codes = self._codes
        codes["shopper"].append(self._shoppers.setdefault(event.shopper_id, len(self._shoppers)))
        codes["item"].append(self._place[event.item_id])
        codes["kind"].append(_KIND_CODE[event.kind])
        codes["query"].append(_code(self._queries, event.query))
        codes["session"].append(_code(self._sessions, event.session_id))
        since = event.time - _EPOCH
        self._times.append((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)
        for name, number in (("quantity", event.quantity), ("price", event.price)):
            self._numbers[name].append(float("nan") if number is None else number)

    @property
    def shoppers(self) -> int:
        """How many shoppers have an event."""
        return len(self._shoppers)

    def table(self) -> pa.Table:
        """The events by pseudonym, then time, item and kind; the file's order decides ties."""
        pseudonyms = np.array([self._key.shopper(name) for name in self._shoppers], dtype="U64")
        sessions = [self._key.session(name) for name in self._sessions]
        rank = np.empty(len(pseudonyms), np.int32)
        rank[np.argsort(pseudonyms)] = np.arange(len(pseudonyms), dtype=np.int32)
        codes = {name: np.array(values, np.int32) for name, values in self._codes.items()}
        shopper = rank[codes["shopper"]]
        times = np.array(self._times, np.int64)
        order = np.lexsort((codes["kind"], codes["item"], times, shopper))
        columns: list[pa.Array[Any]] = [
            _words(shopper[order], np.sort(pseudonyms).tolist()),
            pa.array(times[order], EVENT_SCHEMA.field("time").type),
            _words(codes["kind"][order], EVENT_KINDS),
            pa.array(codes["item"][order], pa.int32()),
            _words(codes["query"][order], list(self._queries)),
            _words(codes["session"][order], sessions),
            _numbers(np.array(self._numbers["quantity"])[order]),
            _numbers(np.array(self._numbers["price"])[order]),
        ]
        return pa.Table.from_arrays(columns, schema=EVENT_SCHEMA)


def _code(known: dict[str, int], word: str | None) -> int:
    return -1 if word is None else known.setdefault(word, len(known))


def _words(codes: npt.NDArray[np.int32], words: Sequence[str]) -> "pa.DictionaryArray[Any, Any]":
    """A dictionary column; the code -1 is null."""
    indices = pa.array(codes, pa.int32(), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(words, pa.string()))


def _numbers(values: npt.NDArray[np.float64]) -> "pa.Array[Any]":
    """A column of numbers; NaN is null."""
    return pa.array(values, pa.float64(), mask=np.isnan(values))
