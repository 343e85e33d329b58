"""A server's log in memory, which can be made to lie: the witness' and the auditor's other party.

log = LogServer([b'{"kind":"begin"}'])
log.add(entry)
note = log.note()
"""

from collections.abc import Iterator, Sequence

from hansa.client.witness import Growth, Place
from hansa.core.errors import InvalidInputError
from hansa.core.privacy.entries import Entry
from hansa.core.transparency.checkpoint import Checkpoint
from hansa.core.transparency.leaves import entry_leaf
from hansa.core.transparency.merkle import Tree, leaf_hash
from tests.fakes.log_world import NOW, ORIGIN, PLAN_KEY

MERCHANT = "harbour"


class LogServer:
    """Answers like ``LogService``, from its own leaves; ``calls`` counts the questions."""

    def __init__(self, bodies: Sequence[bytes] = (b'{"kind":"first"}',)) -> None:
        self.bodies = list(bodies)
        self.calls = 0
        self.key = PLAN_KEY

    def add(self, *bodies: bytes) -> None:
        self.bodies += bodies

    def log_entry(self, entry: Entry) -> None:
        """As the scribe does with a merchant's entry."""
        self.add(entry_leaf(MERCHANT, entry.position, entry.hash))

    def tree(self) -> Tree:
        return Tree(leaf_hash(body) for body in self.bodies)

    def note(self, size: int | None = None, *, origin: str = ORIGIN) -> bytes:
        tree = self.tree()
        count = len(tree) if size is None else size
        point = Checkpoint(origin=origin, size=count, root=tree.root(count), time=NOW)
        return point.signed(self.key)

    def growth(self, first: int, second: int, leaf_hashes: Sequence[bytes]) -> Growth:
        self.calls += 1
        if second > len(self.bodies):
            raise InvalidInputError(f"the log has {len(self.bodies)} entries")
        proof = self.tree().consistency(first, second)
        return Growth(proof=proof, places=self._places(second, leaf_hashes))

    def places(self, size: int, leaf_hashes: Sequence[bytes]) -> Sequence[Place | None]:
        self.calls += 1
        return self._places(size, leaf_hashes)

    def _places(self, size: int, leaf_hashes: Sequence[bytes]) -> list[Place | None]:
        tree = self.tree()
        known = {leaf_hash(body): at for at, body in enumerate(self.bodies[:size])}
        return [
            Place(index=known[one], path=tree.inclusion(known[one], size)) if one in known else None
            for one in leaf_hashes
        ]

    # What an auditor asks for.
    def checkpoint(self) -> bytes:
        return self.note()

    def entries(self, first: int, count: int) -> list[bytes]:
        self.calls += 1
        return self.bodies[first : first + min(count, 3)]

    def packs(self) -> list[str]:
        return []

    def pack(self, run: str) -> Iterator[bytes]:
        raise InvalidInputError(f"there is no run {run}")
