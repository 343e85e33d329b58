"""Which entry may follow in a privacy ledger, decided without keeping the entries.

The chain (``hansa.core.privacy.entries``) says that a book is whole; these rules say that it makes
sense: a task is reserved or declared once, committed once and only after its reservation, and a cap
is only ever raised. What is remembered is where each task was booked.
"""

from hansa.core.errors import LedgerError
from hansa.core.privacy.entries import AnyBody, Commit, Declare, Entry, Open, RaiseCap, Reserve


class BookRules:
    """The state of a book that its next entry must fit."""

    def __init__(self) -> None:
        self._reserved: dict[str, int] = {}
        self._committed: dict[str, int] = {}
        self._declared: dict[str, int] = {}
        self._cap = 0.0

    def reserved_at(self, task: str) -> int | None:
        """The position of the task's reservation."""
        return self._reserved.get(task)

    def committed_at(self, task: str) -> int | None:
        """The position of the task's commit."""
        return self._committed.get(task)

    def declared_at(self, task: str) -> int | None:
        """The position of the task's declaration."""
        return self._declared.get(task)

    def admit(self, entry: Entry) -> None:
        """Takes in the next entry of a book whose chain was verified.

        Raises:
            LedgerError: it breaks a rule, and is not taken in.
        """
        fault = self._broken_by(entry.body)
        if fault is not None:
            raise LedgerError(f"ledger entry {entry.position}: {fault}")
        match entry.body:
            case Reserve() as body:
                self._reserved[body.id] = entry.position
            case Commit() as body:
                self._committed[body.id] = entry.position
            case Declare() as body:
                self._declared[body.id] = entry.position
            case Open() | RaiseCap() as body:
                self._cap = body.cap_epsilon
            case _:
                pass

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
