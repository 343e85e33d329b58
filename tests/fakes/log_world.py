"""A server's tables with the log's scribe over them; the test plays everybody who writes.

world = LogWorld(open_database(tmp_path / "hansa.db"))
world.join("harbour")
world.book("harbour", 3)
world.scribe.catch_up()
"""

import datetime as dt
from typing import Any

from sqlalchemy import Engine

from hansa.core.errors import NotFoundError
from hansa.core.evidence import Release
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.privacy.entries import Entry
from hansa.core.privacy.ledger import Ledger, open_ledger
from hansa.core.signing import signing_key
from hansa.core.transparency.checkpoint import Checkpoint, SignedCheckpoint, origin_of
from hansa.core.transparency.leaves import Leaf, parse_leaf
from hansa.server.state.journal import LedgerCopies
from hansa.server.state.members import Joining, Members
from hansa.server.state.runs import Refusal, RoundRecord, Runs
from hansa.server.switchboard import Switchboard
from hansa.server.transparency.scribe import Scribe
from hansa.server.transparency.store import LogStore
from tests.fakes.entropy import SeededEntropy
from tests.fakes.toy_federation import toy_plan

NOW = dt.datetime(2026, 11, 24, 1, 2, 3, 4, tzinfo=dt.UTC)
PLAN_KEY = signing_key(b"p" * 32)
ORIGIN = origin_of("test")


class NoReleases:
    """A repository that holds nothing."""

    def evidence(self, version: int) -> Release:
        raise NotFoundError(f"there is no release {version}")


class LogWorld:
    """One server process at a database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.members = Members(engine, NOW.timestamp)
        self.runs = Runs(engine, NOW.timestamp)
        self.copies = LedgerCopies(engine)
        self.store = LogStore(engine)
        self.ledgers: dict[str, Ledger] = {}
        self.scribe = self.new_scribe()

    def new_scribe(self, **changes: Any) -> Scribe:
        """Another server's scribe, or that of the same one after its restart."""
        parts: dict[str, Any] = {
            "key": PLAN_KEY,
            "origin": ORIGIN,
            "releases": NoReleases(),
            "switchboard": Switchboard(),
            "now": lambda: NOW,
        }
        return Scribe(self.engine, **{**parts, **changes})

    def join(self, name: str) -> None:
        """A new member."""
        self.members.invite(MerchantId(name), serial="1", expires=9e12)
        joining = Joining(
            request_sha256="r" * 64,
            certificate_der=f"certificate of {name}".encode(),
            certificate_expires=9e12,
            ledger_public_key=b"k" * 32,
        )
        self.members.join(name, joining)

    def book(self, name: str, count: int) -> list[Entry]:
        """The merchant's next signed entries, taken in as the ledger desk does."""
        if name not in self.ledgers:
            key = signing_key(name.encode().ljust(32, b"."))
            self.ledgers[name] = open_ledger(
                cap_epsilon=1.0, delta=1e-5, key=key, entropy=SeededEntropy(), now=NOW
            )
        ledger = self.ledgers[name]
        held = self.copies.next_position(name)
        while len(ledger.entries) < held + count:
            ledger.raise_cap(ledger.cap_epsilon + 1.0, now=NOW)
        entries = list(ledger.entries[held : held + count])
        self.copies.append(name, held, [entry.to_bytes().decode() for entry in entries])
        return entries

    def queue(self, run: str = "run") -> None:
        self.runs.queue(RunId(run), toy_plan(), b"signed")

    def round(self, number: int, run: str = "run", *names: str) -> RoundRecord:
        """A round of these merchants, of whom the last one gave no valid answer."""
        members = [MerchantId(name) for name in names or ("harbour", "market")]
        record = RoundRecord(
            number=number,
            cohort=members,
            accepted={name: Sha256(f"{number:064x}") for name in members[:-1]},
            refused={members[-1]: Refusal(reason="deadline", sentence="no answer")},
            aggregate_sha256=Sha256(f"{number + 100:064x}"),
            seconds=1.0,
            down_bytes=1,
            up_bytes=1,
        )
        self.runs.checkpoint(run, record)
        return record

    def leaves(self) -> list[Leaf]:
        """Everything in the log."""
        bodies = self.store.bodies(0, 10**6)
        return [parse_leaf(body, str(number)) for number, body in enumerate(bodies)]

    def kinds(self) -> list[str]:
        return [leaf.kind for leaf in self.leaves()]

    def checkpoint(self) -> Checkpoint:
        return SignedCheckpoint.parse(self.store.note(), "the stored checkpoint").verify()
