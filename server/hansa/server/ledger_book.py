"""One merchant's ledger as the server holds it: verified once, and continued where it ended."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from hansa.core.canonical import sha256_hex
from hansa.core.errors import LedgerError
from hansa.core.ids import MerchantId, Sha256, TaskId
from hansa.core.privacy.bodies import AnyBody
from hansa.core.privacy.entries import (
    Commit,
    Declare,
    Entry,
    Head,
    Reserve,
    verify_chain,
    verify_continuation,
)
from hansa.core.privacy.rules import BookRules, FalseEntryError
from hansa.core.privacy.spending import CapWatch
from hansa.server.state.journal import LedgerCopies

_RECENT = 16
"""Entries at the end of a book that are kept in memory: a result is checked against the newest."""


SLACK: Final = 0.01
"""So much more epsilon than its cap a book may show here: the client's accountant may be another
version, and people see two decimals. The auditor judges without it."""


class Book:
    """Where a copy ends and where each task is booked; the entries themselves stay in the copy."""

    def __init__(self, merchant: MerchantId, copies: LedgerCopies) -> None:
        self.merchant = merchant
        self._copies = copies
        self._key = ""
        self._head: Head | None = None
        self._last_line = ""
        self._rules = BookRules()
        self._watch = CapWatch(SLACK)
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

    def refuse_cheating(self, fresh: Sequence[Entry]) -> None:
        """Refuses entries that exceed a cap or claim a refund; nothing is taken in.

        Entries that break another rule pass, for they are kept as evidence; so does all that comes
        after them, for such a book pays for nothing any more.

        Args:
            fresh: verified entries that are to follow.

        Raises:
            LedgerError: one of them is such an entry; the sentence names its position.
        """
        if self._fault is not None:
            return
        rules, watch = self._rules.fork(), self._watch.fork()
        for entry in fresh:
            try:
                rules.admit(entry)
            except FalseEntryError:
                raise
            except LedgerError:
                return
            overdraft = watch.overdraft(entry)
            if overdraft is not None:
                raise LedgerError(
                    f"ledger entry {entry.position}: it raises {overdraft.sentence()}"
                )
            watch.admit(entry, lambda task: self._reservation(rules, task, fresh))

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
            return
        self._watch.admit(entry, lambda task: self._reservation(self._rules, task))

    def _reservation(
        self, rules: BookRules, task: str, fresh: Sequence[Entry] = ()
    ) -> tuple[Reserve, str] | None:
        """A task's reservation with its time, from the copy or from what is to follow it."""
        position = rules.reserved_at(task)
        if position is None:
            return None
        beyond = position - self.size
        entry = fresh[beyond] if 0 <= beyond < len(fresh) else self._entry(position)
        return (entry.body, entry.time) if isinstance(entry.body, Reserve) else None

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
        """What is reserved under this id, and was not taken back."""
        if self._rules.released_at(task) is not None:
            return None
        body = self._body_at(self._rules.reserved_at(task))
        return body if isinstance(body, Reserve) else None

    def released(self, task: TaskId) -> Sha256 | None:
        """The digest of the bytes released under this id."""
        body = self._body_at(self._rules.committed_at(task))
        return Sha256(body.sha256) if isinstance(body, Commit) else None

    def declaration(self, task: TaskId) -> Declare | None:
        """What a foreign app released under this id."""
        body = self._body_at(self._rules.declared_at(task))
        return body if isinstance(body, Declare) else None

    def _body_at(self, position: int | None) -> AnyBody | None:
        return None if position is None else self._entry(position).body

    def _entry(self, position: int) -> Entry:
        for entry in reversed(self._recent):
            if entry.position == position:
                return entry
        (line,) = self._copies.lines(self.merchant, position, 1)
        return Entry.parse(line.encode(), "a held entry")
