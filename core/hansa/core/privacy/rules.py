"""Which entry may follow in a privacy ledger, decided without keeping the entries.

The chain (``hansa.core.privacy.entries``) says that a book is whole; these rules say that it makes
sense:

* a task is reserved or declared once, and committed once, only after its reservation;
* a reservation is released once, only before a commit; then nothing follows for that task;
* a cap is only ever raised;
* a book has one unit of privacy for its life;
* from the first accepted contract on, time never runs backwards, so that no month begins twice.
  Older books may hold corrections of a clock, and stay valid.

What is remembered is where each task was booked.
"""

from collections import ChainMap
from collections.abc import MutableMapping
from typing import Final

from hansa.core.errors import LedgerError
from hansa.core.privacy.bodies import (
    Accept,
    AnyBody,
    Commit,
    Declare,
    Open,
    RaiseCap,
    Release,
    Reserve,
)
from hansa.core.privacy.entries import Entry, Moment, is_later
from hansa.core.privacy.events import UNIT, Unit

_BEGINNING: Final[Moment] = "0000-00-00T00:00:00Z"


class FalseEntryError(LedgerError):
    """An entry that no client of any version writes unless it was made to cheat.

    Whoever receives one takes it in no more than an edited one. What the first books already
    forbade is plain ``LedgerError``: the server keeps such entries as evidence.
    """


class BookRules:
    """The state of a book that its next entry must fit."""

    def __init__(self) -> None:
        self._reserved: MutableMapping[str, int] = {}
        self._committed: MutableMapping[str, int] = {}
        self._released: MutableMapping[str, int] = {}
        self._declared: MutableMapping[str, int] = {}
        self._cap = 0.0
        self._unit: Unit = UNIT
        self._time: Moment = _BEGINNING
        self._under_contract = False

    def fork(self) -> "BookRules":
        """A state that goes on from here and may be given up; this one must rest meanwhile."""
        fork = BookRules()
        fork._reserved = ChainMap({}, self._reserved)
        fork._committed = ChainMap({}, self._committed)
        fork._released = ChainMap({}, self._released)
        fork._declared = ChainMap({}, self._declared)
        fork._cap, fork._unit, fork._time = self._cap, self._unit, self._time
        fork._under_contract = self._under_contract
        return fork

    @property
    def cap_epsilon(self) -> float:
        """The book's own cap, as last raised."""
        return self._cap

    def reserved_at(self, task: str) -> int | None:
        """The position of the task's reservation."""
        return self._reserved.get(task)

    def committed_at(self, task: str) -> int | None:
        """The position of the task's commit."""
        return self._committed.get(task)

    def released_at(self, task: str) -> int | None:
        """The position at which the task's reservation was taken back."""
        return self._released.get(task)

    def declared_at(self, task: str) -> int | None:
        """The position of the task's declaration."""
        return self._declared.get(task)

    def admit(self, entry: Entry) -> None:
        """Takes in the next entry of a book whose chain was verified.

        Raises:
            LedgerError: it breaks a rule, and is not taken in.
            FalseEntryError: so it does, and nobody can have written it in good faith.
        """
        if (fault := self._broken_by(entry.body)) is not None:
            raise LedgerError(f"ledger entry {entry.position}: {fault}")
        if (fault := self._out_of_time(entry) or self._falsified_by(entry.body)) is not None:
            raise FalseEntryError(f"ledger entry {entry.position}: {fault}")
        self._time = entry.time
        match entry.body:
            case Reserve() as body:
                self._reserved[body.id] = entry.position
            case Commit() as body:
                self._committed[body.id] = entry.position
            case Release() as body:
                self._released[body.id] = entry.position
            case Declare() as body:
                self._declared[body.id] = entry.position
            case Open() as body:
                self._cap, self._unit = body.cap_epsilon, body.unit
            case RaiseCap() as body:
                self._cap = body.cap_epsilon
            case Accept():
                self._under_contract = True
            case _:
                pass

    def _out_of_time(self, entry: Entry) -> str | None:
        bound = self._under_contract or isinstance(entry.body, Accept)
        if bound and is_later(self._time, entry.time):
            return "its time lies before that of the entry before it: a clock was moved back"
        return None

    def _broken_by(self, body: AnyBody) -> str | None:
        match body:
            case Reserve() | Declare() if body.id in self._declared:
                return f"task {body.id} is declared before"
            case Declare() if body.id in self._reserved:
                return f"task {body.id} is reserved before"
            case Reserve() if body.id in self._reserved:
                return f"task {body.id} is reserved a second time"
            case Commit() if body.id not in self._reserved:
                return f"task {body.id} is committed without a reservation"
            case Commit() if body.id in self._committed:
                return f"task {body.id} is committed a second time"
            case RaiseCap() if body.cap_epsilon <= self._cap:
                return "the cap is not raised"
            case _:
                return None

    def _falsified_by(self, body: AnyBody) -> str | None:
        match body:
            case Reserve() if any(event.unit != self._unit for event in body.events):
                return f"task {body.id} has events of another unit than the book's, {self._unit}"
            case Commit() if body.id in self._released:
                return f"task {body.id} is committed after its reservation was released"
            case Release():
                return self._false_release(body)
            case _:
                return None

    def _false_release(self, body: Release) -> str | None:
        if body.id not in self._reserved:
            return f"task {body.id} is released without a reservation"
        if body.id in self._committed:
            return f"task {body.id} is released after its commit: its result may have left"
        if body.id in self._released:
            return f"task {body.id} is released a second time"
        return None
