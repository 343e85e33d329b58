"""A copy of the operator's log, read and indexed."""

from collections import defaultdict
from collections.abc import Sequence

from hansa.core.errors import AuditFailedError, HansaError
from hansa.core.evidence import LogCopy
from hansa.core.transparency.checkpoint import Checkpoint, SignedCheckpoint
from hansa.core.transparency.leaves import (
    AggregateLeaf,
    BeginLeaf,
    CohortLeaf,
    EndLeaf,
    EntryLeaf,
    Leaf,
    MemberLeaf,
    PlanLeaf,
    ReleaseLeaf,
    parse_leaf,
)
from hansa.core.transparency.merkle import Tree, leaf_hash

_TRAIN = "train"


class LogView:
    """The leaves by what they state; whether they are the signed ones, ``check_root`` says."""

    def __init__(self, checkpoint: Checkpoint, bodies: Sequence[bytes], key_id: str = "") -> None:
        """Reads the leaves; ``key_id`` has signed the checkpoint.

        Raises:
            AuditFailedError: one is no leaf, repeated or out of order; the sentence names it.
        """
        self.checkpoint = checkpoint
        self.key_id = key_id
        self.leaves: list[Leaf] = []
        self.tree = Tree(leaf_hash(body) for body in bodies)
        self._bodies = bodies
        self._places: dict[bytes, int] = {}
        self._entries: dict[str, dict[int, EntryLeaf]] = defaultdict(dict)
        self._aggregates: dict[str, dict[int, AggregateLeaf]] = defaultdict(dict)
        self._cohorts: dict[tuple[str, int], CohortLeaf] = {}
        self._plans: dict[str, PlanLeaf] = {}
        self._ends: dict[str, EndLeaf] = {}
        self._members: dict[str, list[MemberLeaf]] = defaultdict(list)
        self.releases: list[ReleaseLeaf] = []
        for index, body in enumerate(bodies):
            self._take(index, body)

    @staticmethod
    def of(log: LogCopy, *, key_id: str | None) -> "LogView":
        """A copy with its checkpoint, which the key must have signed.

        Raises:
            AuditFailedError: a part of it is malformed; the sentence names the leaf.
            TransparencyError: the signature does not hold.
        """
        try:
            signed = SignedCheckpoint.parse(log.checkpoint, "the log's checkpoint")
        except HansaError as error:
            raise AuditFailedError(str(error)) from error
        return LogView(signed.verify(key_id=key_id), log.leaves, signed.key_id)

    def _take(self, index: int, body: bytes) -> None:
        try:
            leaf = parse_leaf(body, f"log entry {index}")
        except HansaError as error:
            raise AuditFailedError(str(error)) from error
        if body in self._places:
            raise AuditFailedError(f"log entry {index}: it is entry {self._places[body]} again")
        if (index == 0) != isinstance(leaf, BeginLeaf):
            raise AuditFailedError(f"log entry {index}: a log begins once, with its first entry")
        self._places[body] = index
        self.leaves.append(leaf)
        self._index(index, leaf)

    def _index(self, index: int, leaf: Leaf) -> None:
        match leaf:
            case EntryLeaf():
                self._index_entry(index, leaf)
            case AggregateLeaf():
                if leaf.round in self._aggregates[leaf.run]:
                    raise AuditFailedError(
                        f"log entry {index}: round {leaf.round} of {leaf.run} is stated again"
                    )
                self._aggregates[leaf.run][leaf.round] = leaf
            case CohortLeaf() if leaf.phase == _TRAIN:
                self._cohorts[leaf.run, leaf.round] = leaf
            case PlanLeaf():
                self._plans[leaf.run] = leaf
            case EndLeaf():
                self._ends[leaf.run] = leaf
            case MemberLeaf():
                self._members[leaf.merchant].append(leaf)
            case ReleaseLeaf():
                self.releases.append(leaf)
            case _:
                pass

    def _index_entry(self, index: int, leaf: EntryLeaf) -> None:
        known = self._entries[leaf.merchant]
        if leaf.position != len(known):
            raise AuditFailedError(
                f"log entry {index}: entry {leaf.position} of {leaf.merchant} stands where entry "
                f"{len(known)} should"
            )
        known[leaf.position] = leaf

    def check_root(self) -> None:
        """Compares the leaves with the checkpoint.

        Raises:
            AuditFailedError: leaves are missing, or one was edited, dropped, added or moved.
        """
        if len(self.tree) != self.checkpoint.size:
            raise AuditFailedError(
                f"log entry {min(len(self.tree), self.checkpoint.size)}: the log has "
                f"{len(self.tree)} entries, and was signed with {self.checkpoint.size}"
            )
        if self.tree.root() != self.checkpoint.root:
            raise AuditFailedError("an entry of the log is not the one that was signed")

    def check_extends(self, other: Checkpoint) -> None:
        """Compares the log with a checkpoint that somebody else has seen.

        Raises:
            AuditFailedError: the log is another one, was cut, or was changed; the sentence says
                before which entry.
        """
        if other.origin != self.checkpoint.origin:
            raise AuditFailedError(f"a checkpoint is of another log, {other.origin}")
        if other.size > len(self.tree):
            raise AuditFailedError(
                f"log entry {len(self.tree)}: the log ends before it, but had {other.size} entries "
                "when others saw it: it was cut"
            )
        if self.tree.root(other.size) != other.root:
            raise AuditFailedError(
                f"log entry {other.size}: an entry before it is not the one that others saw in "
                f"the log of {other.size}"
            )

    def place_of(self, leaf: Leaf) -> int:
        """At which place of the log a leaf stands."""
        return self._places[leaf.to_bytes()]

    def body(self, index: int) -> bytes:
        """A leaf's bytes."""
        return self._bodies[index]

    def entries(self, merchant: str) -> dict[int, EntryLeaf]:
        """A merchant's ledger entries by position."""
        return self._entries.get(merchant, {})

    def merchants(self) -> list[str]:
        """Everybody with an entry in the log, by name."""
        return sorted(self._entries)

    def contributions(self, merchant: str) -> dict[str, list[int]]:
        """The rounds of each run whose aggregates hold an update of this merchant."""
        found = {
            run: sorted(one.round for one in rounds.values() if merchant in one.inputs)
            for run, rounds in self._aggregates.items()
        }
        return {run: rounds for run, rounds in found.items() if rounds}

    def plan(self, run: str) -> PlanLeaf | None:
        """The fact that a run was queued."""
        return self._plans.get(run)

    def end(self, run: str) -> EndLeaf | None:
        """The fact that a run has ended."""
        return self._ends.get(run)

    def rounds(self, run: str) -> dict[int, tuple[AggregateLeaf, CohortLeaf | None]]:
        """A run's aggregates with their cohorts, by round."""
        found = self._aggregates.get(run, {})
        return {number: (leaf, self._cohorts.get((run, number))) for number, leaf in found.items()}

    def members(self, merchant: str) -> list[MemberLeaf]:
        """What happened to a membership, oldest first."""
        return self._members.get(merchant, [])

    def release(self, manifest_sha256: str) -> ReleaseLeaf | None:
        """The release with this manifest."""
        return next((one for one in self.releases if one.manifest_sha256 == manifest_sha256), None)
