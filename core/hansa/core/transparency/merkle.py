"""The Merkle tree of the log: hashes, inclusion and consistency proofs, made and verified.

A tree over ``n`` leaves consists of complete subtrees: the one at ``(level, index)`` covers the
leaves from ``index * 2**level`` on, ``2**level`` of them, and never changes once it is complete.
Whoever keeps the hashes of those can give every proof for every size that the tree ever had. What a
proof is made of is therefore said in coordinates first (``inclusion_path``, ``consistency_path``),
and where the hashes come from is the caller's matter.

References:
    RFC 6962, Certificate Transparency, section 2.1 (hashes and proofs).
    RFC 9162, sections 2.1.3.2 and 2.1.4.2 (verification).
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from hansa.core.errors import InvalidInputError, TransparencyError

HASH_BYTES: Final = 32
MAX_SIZE: Final = 2**53 - 1
"""Largest number of leaves: the largest integer of canonical JSON."""
MAX_PATH: Final = 64
"""No proof has more hashes than this."""

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

Coordinates = tuple[int, int]
"""Level and index of a complete subtree; the leaves have level 0."""
Lookup = Callable[[Coordinates], bytes]
"""Gives the hash of a complete subtree."""
Path = tuple[tuple[Coordinates, ...], ...]
"""Of each hash of a proof the complete subtrees that it is folded from, left to right."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf's bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of the node above two others."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees of falling size, left to right; of none, the empty root."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def cover(begin: int, end: int) -> tuple[Coordinates, ...]:
    """The complete subtrees of the leaves ``begin`` to ``end - 1``, the largest first.

    ``begin`` is a multiple of a power of two that is no less than ``end - begin``, as it is for all
    that a tree's recursion meets.
    """
    found = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        found.append((level, begin >> level))
        begin += 1 << level
    return tuple(found)


def completed_by(index: int) -> range:
    """The levels of the complete subtrees that end with this leaf, without level 0."""
    ended = index + 1
    return range(1, (ended & -ended).bit_length())


def inclusion_path(index: int, size: int) -> Path:
    """What the audit path of a leaf is made of, in the order of the proof (RFC 6962, 2.1.1).

    Raises:
        InvalidInputError: there is no such leaf in a tree of that size.
    """
    _check_size(size)
    if not 0 <= index < size:
        raise InvalidInputError(f"a log of {size} entries has no entry {index}")
    begin, end, parts = 0, size, []
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            parts.append(cover(middle, end))
            end = middle
        else:
            parts.append(cover(begin, middle))
            begin = middle
    return tuple(reversed(parts))


def consistency_path(first: int, second: int) -> Path:
    """What the proof is made of that a tree goes on from an earlier one (RFC 6962, 2.1.2).

    Raises:
        InvalidInputError: the first size is 0, or above the second.
    """
    _check_size(second)
    if not 0 < first <= second:
        raise InvalidInputError(f"{first} to {second} is no way in which a log grows")
    begin, end, whole, parts = 0, second, True, []
    while first != end:
        middle = begin + _split(end - begin)
        if first <= middle:
            parts.append(cover(middle, end))
            end = middle
        else:
            parts.append(cover(begin, middle))
            begin, whole = middle, False
    if not whole:
        parts.append(cover(begin, end))
    return tuple(reversed(parts))


def coordinates_of(path: Path) -> set[Coordinates]:
    """Every complete subtree that a proof needs."""
    return {one for part in path for one in part}


def proof_of(path: Path, lookup: Lookup) -> list[bytes]:
    """The proof's hashes."""
    return [fold([lookup(one) for one in part]) for part in path]


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Checks that a leaf stands at a place of the tree with this root.

    Args:
        leaf: the leaf's hash.
        index: its place, from 0.
        size: how many leaves the tree has.
        proof: the audit path.
        root: the tree's, from a checkpoint that is signed.

    Raises:
        TransparencyError: it does not, or the proof is for another place or size.
    """
    what = f"the proof that entry {index} is in the log of {size}"
    if not 0 <= index < size <= MAX_SIZE:
        raise TransparencyError(f"{what} is for a place that the log does not have")
    _check_lengths([leaf, root, *proof], what)
    place, last, found = index, size - 1, leaf
    for one in proof:
        if last == 0:
            raise TransparencyError(f"{what} is too long")
        if place & 1 or place == last:
            found = node_hash(one, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, one)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise TransparencyError(f"{what} is too short")
    if found != root:
        raise TransparencyError(f"{what} does not hold: the entry is not there as it was")


def verify_consistency(
    first: int, second: int, *, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Checks that the tree of the second size begins with the whole tree of the first.

    Raises:
        TransparencyError: it does not: the log was rewritten, or split in two.
    """
    what = f"the proof that the log of {second} goes on from that of {first}"
    if not 0 <= first <= second <= MAX_SIZE:
        raise TransparencyError(f"{what} is for sizes in which no log grows")
    _check_lengths([first_root, second_root, *proof], what)
    if first in (0, second):
        expected = EMPTY_ROOT if first == 0 else second_root
        if proof or first_root != expected:
            raise TransparencyError(f"{what} does not hold")
        return
    hashes = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    if len(hashes) > MAX_PATH or not hashes:
        raise TransparencyError(f"{what} has an impossible length")
    old, new = _climb(first - 1, second - 1, hashes, what)
    if old != first_root or new != second_root:
        raise TransparencyError(f"{what} does not hold: an entry before {first} was changed")


def _climb(place: int, last: int, hashes: Sequence[bytes], what: str) -> tuple[bytes, bytes]:
    """The two roots to which a consistency proof leads (RFC 9162, 2.1.4.2)."""
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = hashes[0]
    for one in hashes[1:]:
        if last == 0:
            raise TransparencyError(f"{what} is too long")
        if place & 1 or place == last:
            old, new = node_hash(one, old), node_hash(one, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, one)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise TransparencyError(f"{what} is too short")
    return old, new


def _split(size: int) -> int:
    """The largest power of two below ``size``, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise InvalidInputError(f"a log cannot have {size} entries")


def _check_lengths(hashes: Iterable[bytes], what: str) -> None:
    if any(len(one) != HASH_BYTES for one in hashes):
        raise TransparencyError(f"{what} holds something else than SHA-256 digests")


class Tree:
    """A whole tree in memory: every complete subtree of the leaves that were added."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        """Takes the leaves' hashes."""
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        """How many leaves there are."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Adds a leaf's hash; about two hashes' work, however large the tree is."""
        index = len(self)
        self._levels[0].append(leaf)
        for level in completed_by(index):
            if level == len(self._levels):
                self._levels.append([])
            left, right = self._levels[level - 1][-2:]
            self._levels[level].append(node_hash(left, right))

    def node(self, where: Coordinates) -> bytes:
        """The hash of a complete subtree."""
        level, index = where
        return self._levels[level][index]

    def root(self, size: int | None = None) -> bytes:
        """The root that the tree has, or had when it was of that size.

        Raises:
            InvalidInputError: it never was.
        """
        wanted = len(self) if size is None else size
        if not 0 <= wanted <= len(self):
            raise InvalidInputError(f"a log of {len(self)} entries never had {wanted}")
        return fold([self.node(one) for one in cover(0, wanted)])

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The audit path of a leaf in the tree of that size."""
        return proof_of(inclusion_path(index, len(self) if size is None else size), self.node)

    def consistency(self, first: int, second: int | None = None) -> list[bytes]:
        """The proof that the tree of the second size goes on from that of the first."""
        return proof_of(consistency_path(first, len(self) if second is None else second), self.node)
