"""How long a ledger takes to open, to verify in full, and to decide on a reservation.

Claim: one's own ledger of 100,000 entries opens in less than 5 s of CPU time, a stranger's is
verified signature by signature in less than 60 s (by the server, and with every cap by the
auditor), and a reservation in a book of 1,000 entries is decided in less than 0.2 s.

Command:
    python -m benchmarks.privacy_parts.ledger

The book alternates reservations and commits of one plan, under a contract with every cap, and ends
at nine tenths of its caps, where decisions are dearest.
"""

import argparse
import datetime as dt
import time
from collections.abc import Callable
from typing import Final

from benchmarks.federation_parts.measure import emit, note
from hansa.audit.caps import kept_cap
from hansa.core.contract import Contract
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy.accounting import epsilon_reference
from hansa.core.privacy.bodies import Accept, AnyBody, Commit, Reserve
from hansa.core.privacy.entries import Entry, make_entry
from hansa.core.privacy.events import PoissonGaussian, times
from hansa.core.privacy.ledger import Ledger, open_ledger
from hansa.core.privacy.own_book import read_own_book
from hansa.core.signing import signing_key

KEY: Final = signing_key(b"benchmark".ljust(32, b"."))
PLAN: Final = Sha256("a" * 64)
BEGIN: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
STEP: Final = PoissonGaussian(sampling_rate=0.01, noise_multiplier=4.0, steps=1)
DELTA: Final = 1e-5


class _Zeros:
    """The data set's id need not be random here."""

    def random_bytes(self, count: int) -> bytes:
        return bytes(count)


def made_book(entries: int) -> list[Entry]:
    """A signed book of so many entries, at nine tenths of its caps."""
    spent = epsilon_reference([times(STEP, max(1, entries // 2))], DELTA)
    opened = open_ledger(cap_epsilon=spent / 0.9, delta=DELTA, key=KEY, entropy=_Zeros(), now=BEGIN)
    caps = {"plan_epsilon": spent / 0.9, "month_epsilon": spent / 0.9}
    book = [*opened.entries, _after(opened.entries[0], Accept(contract=Contract(**caps)), 0)]
    while len(book) < entries:
        number = len(book) // 2
        body: AnyBody = _reserve(number)
        if isinstance(last := book[-1].body, Reserve):
            body = Commit(id=last.id, sha256="b" * 64)
        book.append(_after(book[-1], body, number))
    return book


def _reserve(number: int) -> Reserve:
    return Reserve(
        id=_task(number),
        plan_digest=PLAN,
        run="autumn-0001",
        round=number,
        phase="train",
        events=(STEP,),
    )


def _task(number: int) -> TaskId:
    return TaskId(f"autumn-0001/{number}/train/harbour")


def _after(last: Entry, body: AnyBody, number: int) -> Entry:
    return make_entry(body, after=last, now=BEGIN + dt.timedelta(seconds=20 * number), key=KEY)


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def reserve_s(book: list[Entry]) -> float:
    """One decision in a book that was just opened: nothing of it is known yet."""
    ledger = Ledger(book, key=KEY, verified=True)
    now = dt.datetime.fromisoformat(book[-1].time)

    def reserve() -> None:
        ledger.reserve(
            _task(10**6),
            plan_digest=PLAN,
            run=RunId("autumn-0001"),
            round_number=0,
            phase="train",
            events=[STEP],
            now=now,
        )

    return cpu_s(reserve)


def measured(entries: int, reserve_entries: int) -> dict[str, float]:
    """All figures, in CPU seconds."""
    small = made_book(reserve_entries)
    reserve_s(small[:-2])  # what a process computes once for a mechanism
    decided = reserve_s(small)
    note(f"making {entries} entries")
    lines = [entry.to_bytes() for entry in made_book(entries)]
    data = b"".join(line + b"\n" for line in lines)
    opened = cpu_s(lambda: Ledger(read_own_book(data), verified=True))
    book: list[Entry] = []
    parsed = cpu_s(lambda: book.extend(Entry.parse(line, "entry") for line in lines))
    verified = cpu_s(lambda: Ledger(book))
    caps = cpu_s(lambda: kept_cap(book, DELTA))
    return {
        "open_100k_entries_s": opened,
        "reserve_at_1000_entries_s": decided,
        "verify_100k_signatures_s": parsed + verified,
        "audit_100k_caps_s": caps,
    }


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--reserve-entries", type=int, default=1_000)
    asked = parser.parse_args()
    emit(measured(asked.entries, asked.reserve_entries))


if __name__ == "__main__":
    main()
