"""Takes in the merchants' signed ledger entries: verified, complete, never altered.

A copy is verified as a whole when this process meets it first, and then entry by entry as it grows,
so that a result costs the same in the thousandth round as in the first.
"""

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

from hansa.core.errors import LedgerError
from hansa.core.flower_plan import AnyPlan, FlowerPlan, parse_any_plan
from hansa.core.ids import MerchantId, Sha256, TaskId
from hansa.core.privacy.entries import Entry, Release
from hansa.core.privacy.events import covers
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.secure.protocol import LIGHT_STAGES
from hansa.server.ledger_book import Book
from hansa.server.state.journal import LedgerCopies
from hansa.server.state.members import Members
from hansa.server.state.runs import RunTerms
from hansa.server.state.tables import TaskRow

MAX_ENTRIES_BYTES = 3 << 20


Delivered = Callable[[MerchantId, str], bool]


def _nothing(_merchant: MerchantId, _task: str) -> bool:
    return False


class LedgerDesk:
    """The server's copies, which grow with every result; a merchant's first key is its only one."""

    def __init__(
        self, members: Members, copies: LedgerCopies, delivered: Delivered = _nothing
    ) -> None:
        """Takes its parts.

        Args:
            members: who has which ledger key.
            copies: where the entries lie.
            delivered: whether bytes of a merchant's task ever came in.
        """
        self._delivered = delivered
        self._members = members
        self._copies = copies
        self._lock = threading.Lock()
        self._locks: dict[MerchantId, threading.Lock] = {}
        self._books: dict[MerchantId, Book] = {}
        self._plans: dict[str, AnyPlan] = {}

    def next_position(self, merchant: MerchantId) -> int:
        """The first entry that is not held here."""
        return self._copies.next_position(merchant)

    def accept(self, merchant: MerchantId, data: bytes) -> int:
        """Adds new entries (JSON lines); entries that are held already must be the same.

        Returns:
            The first position that is not held here now.

        Raises:
            LedgerError: entries are missing, edited, reordered or signed by another key, exceed a
                cap, or take back what was sent; the sentence names the position.
        """
        if len(data) > MAX_ENTRIES_BYTES:
            raise LedgerError("too many ledger entries at once; send them in smaller portions")
        lines = [line for line in data.split(b"\n") if line]
        with self._lock_of(merchant):
            book = self._book(merchant)
            if fresh := self._fresh(book, lines):
                self._take_in(book, fresh)
            return book.size

    def check_booked(self, task: TaskRow, run: RunTerms, sha256: Sha256) -> None:
        """Lets only an update pass that is paid for; the auditor would refuse the run otherwise.

        Raises:
            LedgerError: the task's cost is not reserved in full, or the ledger commits other bytes;
                or a foreign app's release is not declared.
        """
        if task.phase in LIGHT_STAGES:
            return  # they touch no data, and so cost nothing
        with self._lock_of(MerchantId(task.merchant)):
            ledger = self._book(MerchantId(task.merchant)).checked()
        plan = self._plan(run)
        if isinstance(plan, FlowerPlan):
            _check_declared(ledger, task, run, plan.client_app, sha256)
            return
        booked = ledger.reservation(TaskId(task.task_id))
        work = (task.run_id, task.round_number, task.phase, run.plan_digest)
        if booked is None or (booked.run, booked.round, booked.phase, booked.plan_digest) != work:
            raise LedgerError("the update's cost is not reserved in the ledger; reserve, then work")
        if not covers(booked.events, PrivacyPlan.of(plan).events_for(task.phase)):
            raise LedgerError("the ledger reserves less than the plan costs")
        if ledger.released(TaskId(task.task_id)) != sha256:
            raise LedgerError("the ledger does not commit these bytes; commit, then send")

    def _plan(self, run: RunTerms) -> AnyPlan:
        """The run's plan; read once, for it is asked about with every update and never changes."""
        plan = self._plans.get(run.plan_digest)
        if plan is None:
            plan = parse_any_plan(run.plan, f"the plan of run {run.run_id}")
            self._plans[run.plan_digest] = plan
        return plan

    def _lock_of(self, merchant: MerchantId) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(merchant, threading.Lock())

    def _book(self, merchant: MerchantId) -> Book:
        """The merchant's book with what other servers took in; read anew if it is another one."""
        book = self._books.get(merchant)
        last = self._copies.last(merchant)
        if book is None or not book.leads_to(last):
            book = Book(merchant, self._copies)
        if last is not None and last[0] >= book.size:
            book.read_on()
        self._books[merchant] = book
        return book

    def _take_in(self, book: Book, fresh: list[Entry]) -> None:
        """Verified first, written second, remembered last."""
        book.verify(fresh, public_key=self._public_key(book.merchant))
        book.refuse_cheating(fresh)
        self._refuse_refunds(book.merchant, fresh)
        lines = [entry.to_bytes().decode() for entry in fresh]
        self._copies.append(book.merchant, book.size, lines)
        book.admit(fresh, lines[-1])

    def _refuse_refunds(self, merchant: MerchantId, fresh: Sequence[Entry]) -> None:
        """Whoever sent bytes of a task cannot have given it up before it touched data."""
        for entry in fresh:
            if isinstance(entry.body, Release) and self._delivered(merchant, entry.body.id):
                raise LedgerError(
                    f"ledger entry {entry.position}: it takes back task {entry.body.id}, of which "
                    "bytes were sent"
                )

    def _fresh(self, book: Book, lines: list[bytes]) -> list[Entry]:
        entries = [Entry.parse(line, f"an entry of {book.merchant}") for line in lines]
        known = [entry.position for entry in entries if entry.position < book.size]
        if any(later <= earlier for earlier, later in pairwise(known)):
            raise LedgerError(f"the ledger entries of {book.merchant} are out of order or repeated")
        held = self._held(book, known)
        for line, entry in zip(lines, entries, strict=True):
            if entry.position < book.size and held[entry.position] != line:
                raise LedgerError(
                    f"ledger entry {entry.position} of {book.merchant} "
                    "differs from the one received before"
                )
        return [entry for entry in entries if entry.position >= book.size]

    def _held(self, book: Book, positions: list[int]) -> dict[int, bytes]:
        """The held lines that span these positions."""
        if not positions:
            return {}
        first = min(positions)
        lines = self._copies.lines(book.merchant, first, max(positions) - first + 1)
        return {first + index: line.encode() for index, line in enumerate(lines)}

    def _public_key(self, merchant: MerchantId) -> str:
        key = self._members.ledger_key(merchant)
        if key is None:
            raise LedgerError(f"merchant {merchant} never showed a ledger key")
        return key.hex()


def _check_declared(ledger: Book, task: TaskRow, run: RunTerms, app: str, sha256: Sha256) -> None:
    """A foreign app's release costs no epsilon, but the merchant must own to it."""
    declared = ledger.declaration(TaskId(task.task_id))
    work = (app, run.plan_digest, task.run_id, task.round_number, task.phase, sha256)
    if declared is None or work != (
        declared.app,
        declared.plan_digest,
        declared.run,
        declared.round,
        declared.phase,
        declared.sha256,
    ):
        raise LedgerError("the app's release is not declared in the ledger; declare, then send")
