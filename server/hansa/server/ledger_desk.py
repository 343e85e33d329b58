"""Takes in the merchants' signed ledger entries: verified, complete, never altered."""

from hansa.core.errors import LedgerError
from hansa.core.ids import MerchantId, Sha256, TaskId
from hansa.core.plan import parse_plan
from hansa.core.privacy.entries import Entry, verify_chain
from hansa.core.privacy.events import PrivacyEvent, covers
from hansa.core.privacy.ledger import Ledger
from hansa.core.privacy.plan import PrivacyPlan
from hansa.server.state.journal import LedgerCopies
from hansa.server.state.members import Members
from hansa.server.state.tables import RunRow, TaskRow

MAX_ENTRIES_BYTES = 3 << 20


class LedgerDesk:
    """The server's copies, which grow with every result; a merchant's first key is its only one."""

    def __init__(self, members: Members, copies: LedgerCopies) -> None:
        self._members = members
        self._copies = copies

    def next_position(self, merchant: MerchantId) -> int:
        """The first entry that is not held here."""
        return self._copies.next_position(merchant)

    def accept(self, merchant: MerchantId, data: bytes) -> None:
        """Adds new entries (JSON lines); entries that are held already must be the same.

        Raises:
            LedgerError: entries are missing, edited, reordered or signed by another key.
        """
        if len(data) > MAX_ENTRIES_BYTES:
            raise LedgerError("too many ledger entries at once; send them in smaller portions")
        fresh = self._fresh(merchant, [line for line in data.split(b"\n") if line])
        if not fresh:
            return
        held = self._book(merchant)
        verify_chain(held + fresh, public_key=self._public_key(merchant))
        self._copies.append(merchant, len(held), [entry.to_bytes().decode() for entry in fresh])

    def check_booked(self, task: TaskRow, run: RunRow, sha256: Sha256) -> None:
        """Lets only an update pass that is paid for; the auditor would refuse the run otherwise.

        Raises:
            LedgerError: the task's cost is not reserved in full, or the ledger commits other bytes.
        """
        ledger = Ledger(self._book(MerchantId(task.merchant)))
        booked = ledger.reservation(TaskId(task.task_id))
        work = (task.run_id, task.round_number, task.phase, run.plan_digest)
        if booked is None or (booked.run, booked.round, booked.phase, booked.plan_digest) != work:
            raise LedgerError("the update's cost is not reserved in the ledger; reserve, then work")
        if not covers(booked.events, _cost(run, task.phase)):
            raise LedgerError("the ledger reserves less than the plan costs")
        if ledger.released(TaskId(task.task_id)) != sha256:
            raise LedgerError("the ledger does not commit these bytes; commit, then send")

    def _book(self, merchant: MerchantId) -> list[Entry]:
        lines = self._copies.lines(merchant)
        return [Entry.parse(line.encode(), "a held entry") for line in lines]

    def _fresh(self, merchant: MerchantId, lines: list[bytes]) -> list[Entry]:
        held = self._copies.lines(merchant)
        fresh = []
        for line in lines:
            entry = Entry.parse(line, f"an entry of {merchant}")
            if entry.position >= len(held):
                fresh.append(entry)
            elif held[entry.position].encode() != line:
                raise LedgerError(
                    f"ledger entry {entry.position} of {merchant} "
                    "differs from the one received before"
                )
        return fresh

    def _public_key(self, merchant: MerchantId) -> str:
        for row in self._members.everyone():
            if row.name == merchant and row.ledger_public_key is not None:
                return row.ledger_public_key.hex()
        raise LedgerError(f"merchant {merchant} never showed a ledger key")


def _cost(run: RunRow, phase: str) -> list[PrivacyEvent]:
    plan = PrivacyPlan.of(parse_plan(run.plan, f"the plan of run {run.run_id}"))
    event = plan.round_event() if phase == "train" else plan.evaluation_event()
    return [] if event is None else [event]
