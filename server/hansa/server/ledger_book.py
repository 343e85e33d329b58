"""One merchant's ledger as the server holds it: verified once, and continued where it ended."""

from collections import deque
from collections.abc import Sequence

from hansa.core.canonical import sha256_hex
from hansa.core.errors import LedgerError
from hansa.core.ids import MerchantId, Sha256, TaskId
from hansa.core.privacy.entries import (
    AnyBody,
    Commit,
    Declare,
    Entry,
    Head,
    Reserve,
    verify_chain,
    verify_continuation,
)
from hansa.core.privacy.rules import BookRules
from hansa.server.state.journal import LedgerCopies

_RECENT = 16
"""Entries at the end of a book that are kept in memory: a result is checked against the newest."""


class Book:
    """Where a copy ends and where each task is booked; the entries themselves stay in the copy."""

    def __init__(self, merchant: MerchantId, copies: LedgerCopies) -> None:
        self.merchant = merchant
        self._copies = copies
        self._key = ""
        self._head: Head | None = None
        self._last_line = ""
        self._rules = BookRules()
        self._recent: deque[Entry] = deque(maxlen=_RECENT)
        self._fault: LedgerError | None = None

    @property
    def size(self) -> int:
        """How many entries were taken in."""
        return 0 if self._head is None else self._head.position + 1

    def leads_to(self, last: tuple[int, str] | None) -> bool:
        """Whether a copy that ends with this line can be this book, perhaps continued."""
        position = -1 if last is None else last[0]
        if last is None or position != self.size - 1:
            return position >= self.size
        return sha256_hex(last[1].encode()) == self._last_line

    def read_on(self) -> None:
        """Takes in what the copy holds beyond the book's end.

        Raises:
            LedgerError: the copy was altered in the database.
        """
        lines = self._copies.lines(self.merchant, self.size)
        if lines:
            entries = [Entry.parse(line.encode(), "a held entry") for line in lines]
            self.verify(entries)
            self.admit(entries, lines[-1])

    def verify(self, entries: Sequence[Entry], *, public_key: str | None = None) -> None:
        """Checks entries that are to follow; nothing is taken in.

        Args:
            entries: at least one.
            public_key: the merchant's ledger key (hexadecimal), if it is known from elsewhere.

        Raises:
            LedgerError: they do not follow, were edited, or are signed by another key.
        """
        if self._head is None:
            verify_chain(entries, public_key=public_key)
            return
        if public_key not in (None, self._key):
            raise LedgerError(f"the ledger of {self.merchant} is kept under another key")
        verify_continuation(entries, after=self._head, public_key=self._key)

    def admit(self, entries: Sequence[Entry], last_line: str) -> None:
        """Takes in verified entries that stand in the copy, which ends with ``last_line`` now."""
        if self._head is None:
            self._key = verify_chain(entries[:1]).public_key
        for entry in entries:
            self._keep_to_rules(entry)
        self._recent.extend(entries)
        self._head = Head(position=entries[-1].position, hash=Sha256(entries[-1].hash))
        self._last_line = sha256_hex(last_line.encode())

    def _keep_to_rules(self, entry: Entry) -> None:
        """A signed entry that breaks a rule is kept, as evidence; the book is good for no more."""
        try:
            self._rules.admit(entry)
        except LedgerError as error:
            self._fault = self._fault or error

    def checked(self) -> "Book":
        """The book, if all its entries keep to the rules.

        Raises:
            LedgerError: one does not, or there are none.
        """
        if self._fault is not None:
            raise LedgerError(str(self._fault))
        if self._head is None:
            raise LedgerError("the ledger is empty: even its first entry was dropped")
        return self

    def reservation(self, task: TaskId) -> Reserve | None:
        """What was reserved under this id."""
        body = self._body(self._rules.reserved_at(task))
        return body if isinstance(body, Reserve) else None

    def released(self, task: TaskId) -> Sha256 | None:
        """The digest of the bytes released under this id."""
        body = self._body(self._rules.committed_at(task))
        return Sha256(body.sha256) if isinstance(body, Commit) else None

    def declaration(self, task: TaskId) -> Declare | None:
        """What a foreign app released under this id."""
        body = self._body(self._rules.declared_at(task))
        return body if isinstance(body, Declare) else None

    def _body(self, position: int | None) -> AnyBody | None:
        if position is None:
            return None
        for entry in reversed(self._recent):
            if entry.position == position:
                return entry.body
        (line,) = self._copies.lines(self.merchant, position, 1)
        return Entry.parse(line.encode(), "a held entry").body
