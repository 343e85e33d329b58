"""How much of one run a copy of the log states."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hansa.core.ids import RunId
from hansa.core.transparency.leaves import (
    AggregateLeaf,
    EndLeaf,
    EntryLeaf,
    ReleaseLeaf,
    parse_leaf,
)


@dataclass(kw_only=True)
class Logged:
    """What a pack under one checkpoint may hold; whatever is newer is for the next pack."""

    rounds: set[int] = field(default_factory=set)
    ended: bool = False
    release: bool = False
    _entries: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(run_id: RunId, leaves: Iterable[bytes]) -> "Logged":
        """Reads the leaves of a log.

        Raises:
            TransparencyError: one is no leaf.
        """
        logged = Logged()
        for number, body in enumerate(leaves):
            leaf = parse_leaf(body, f"log entry {number}")
            match leaf:
                case EntryLeaf():
                    logged._entries[leaf.merchant] += 1
                case AggregateLeaf(run=run) if run == run_id:
                    logged.rounds.add(leaf.round)
                case EndLeaf(run=run) if run == run_id:
                    logged.ended = True
                case ReleaseLeaf(run=run) if run == run_id:
                    logged.release = True
                case _:
                    pass
        return logged

    def entries(self, merchant: str) -> int:
        """How many of a merchant's ledger entries are logged; they are so in order."""
        return self._entries[merchant]
