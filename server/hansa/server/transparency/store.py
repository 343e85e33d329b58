"""The log's tree in the database: appended under one lock, read by coordinates.

Every complete subtree's hash is a row, written once, when it is complete. Appending needs none of
them: the complete subtrees at the log's end stand in the head's row. A proof needs about twice the
logarithm of the log's size of them, in two queries.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select, tuple_
from sqlalchemy.orm import Session

from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.core.transparency.merkle import (
    HASH_BYTES,
    Coordinates,
    Path,
    completed_by,
    consistency_path,
    coordinates_of,
    fold,
    inclusion_path,
    leaf_hash,
    node_hash,
    proof_of,
)
from hansa.server.state.database import insert_into, writing
from hansa.server.state.tables import LogHeadRow, LogLeafRow, LogNodeRow

_HEAD = 1
_AT_ONCE = 400
"""Coordinates in one query: SQLite takes only so many values."""


class Appender:
    """The log's end, held for one transaction."""

    def __init__(self, session: Session) -> None:
        """Takes the lock on the end; of several servers one appends at a time."""
        self._session = session
        head = session.get_one(LogHeadRow, _HEAD, with_for_update=True)
        self._head = head
        self.size = head.size
        self._frontier = _hashes(head.frontier)
        self._leaves: list[dict[str, object]] = []
        self._nodes: list[dict[str, object]] = []

    @property
    def is_changed(self) -> bool:
        """Whether anything was appended."""
        return bool(self._leaves)

    @property
    def root(self) -> bytes:
        """The root with what was appended."""
        return fold(self._frontier)

    def append(self, body: bytes) -> None:
        """Puts a leaf at the end."""
        leaf = leaf_hash(body)
        self._leaves.append({"index": self.size, "hash": leaf, "body": body.decode()})
        self._frontier.append(leaf)
        for level in completed_by(self.size):
            right, left = self._frontier.pop(), self._frontier.pop()
            node = node_hash(left, right)
            self._frontier.append(node)
            index = self.size >> level
            self._nodes.append({"level": level, "index": index, "hash": node})
        self.size += 1

    def write(self, note: bytes) -> None:
        """Writes what was appended, under the checkpoint of this size."""
        connection = self._session.connection()
        connection.execute(insert(LogLeafRow), self._leaves)
        if self._nodes:
            connection.execute(insert(LogNodeRow), self._nodes)
        self._head.size, self._head.note = self.size, note
        self._head.frontier = b"".join(self._frontier)


@dataclass(frozen=True, kw_only=True)
class Proven:
    """A leaf's place and its audit path."""

    index: int
    proof: list[bytes]


class LogStore:
    """Reads the log; ``Appender`` writes it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self) -> None:
        """Makes the end of an empty log, once."""
        empty = {"head_id": _HEAD, "size": 0, "frontier": b"", "note": b""}
        with writing(self._engine) as session:
            statement = insert_into(self._engine, LogHeadRow).on_conflict_do_nothing()
            session.connection().execute(statement, empty)

    def note(self) -> bytes:
        """The newest signed checkpoint; empty before the log has begun."""
        query = select(LogHeadRow.note).where(LogHeadRow.head_id == _HEAD)
        with self._engine.connect() as connection:
            return connection.scalar(query) or b""

    def size(self) -> int:
        """How many entries there are."""
        query = select(LogHeadRow.size).where(LogHeadRow.head_id == _HEAD)
        with self._engine.connect() as connection:
            return connection.scalar(query) or 0

    def bodies(self, first: int, end: int) -> list[bytes]:
        """The leaves ``first`` to ``end - 1``, as many of them as there are, in order."""
        query = select(LogLeafRow.body).where(LogLeafRow.index >= first, LogLeafRow.index < end)
        with self._engine.connect() as connection:
            rows = connection.scalars(query.order_by(LogLeafRow.index))
            return [body.encode() for body in rows]

    def indices(self, hashes: Collection[bytes]) -> dict[bytes, int]:
        """The places of those leaf hashes that are in the log."""
        query = select(LogLeafRow.hash, LogLeafRow.index).where(LogLeafRow.hash.in_(hashes))
        with self._engine.connect() as connection:
            return {bytes(one): index for one, index in connection.execute(query)}

    def consistency(self, first: int, second: int) -> list[bytes]:
        """The proof that the log of the second size goes on from that of the first.

        Raises:
            InvalidInputError: the log never had these sizes.
        """
        self._check_reached(second)
        path = consistency_path(first, second)
        nodes = self._nodes(coordinates_of(path))
        return proof_of(path, nodes.__getitem__)

    def inclusions(self, hashes: Sequence[bytes], size: int) -> dict[bytes, Proven]:
        """The proofs of those leaves that are in the log of that size.

        Raises:
            InvalidInputError: the log never had this size.
        """
        self._check_reached(size)
        places = {one: at for one, at in self.indices(hashes).items() if at < size}
        paths: dict[bytes, Path] = {one: inclusion_path(at, size) for one, at in places.items()}
        wanted = set().union(*(coordinates_of(path) for path in paths.values()))
        nodes = self._nodes(wanted)
        return {
            one: Proven(index=places[one], proof=proof_of(path, nodes.__getitem__))
            for one, path in paths.items()
        }

    def _check_reached(self, size: int) -> None:
        held = self.size()
        if not 0 <= size <= held:
            raise InvalidInputError(f"the log has {held} entries, and never had {size}")

    def _nodes(self, wanted: Collection[Coordinates]) -> dict[Coordinates, bytes]:
        leaves = sorted(index for level, index in wanted if level == 0)
        inner = sorted(one for one in wanted if one[0] > 0)
        found: dict[Coordinates, bytes] = {}
        with self._engine.connect() as connection:
            for some in _portions(leaves):
                query = select(LogLeafRow.index, LogLeafRow.hash).where(LogLeafRow.index.in_(some))
                found |= {(0, index): bytes(one) for index, one in connection.execute(query)}
            for some in _portions(inner):
                where = tuple_(LogNodeRow.level, LogNodeRow.index).in_(some)
                rows = select(LogNodeRow.level, LogNodeRow.index, LogNodeRow.hash).where(where)
                found |= {(level, at): bytes(one) for level, at, one in connection.execute(rows)}
        if len(found) != len(set(wanted)):
            raise NotFoundError("a part of the log is missing in the database; restore a backup")
        return found


def logged(session: Session, hashes: Collection[bytes]) -> set[bytes]:
    """Which of these leaf hashes are in the log."""
    query = select(LogLeafRow.hash).where(LogLeafRow.hash.in_(hashes))
    return {bytes(one) for one in session.scalars(query)}


def _hashes(joined: bytes) -> list[bytes]:
    return [joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)]


def _portions(values: list[int] | list[Coordinates]) -> Iterator[list[int] | list[Coordinates]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
