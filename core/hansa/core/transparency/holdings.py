"""Which releases hold what a merchant has contributed, from when to when.

A model after a round goes on from all rounds before it, and a run that began with a release goes on
from that one: whoever gave an update to any of them is in it, and cannot be taken out of it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field

from hansa.core.privacy.bodies import Label
from hansa.core.transparency.leaves import (
    AggregateLeaf,
    Count,
    EndLeaf,
    Instant,
    Leaf,
    ReleaseLeaf,
    Word,
)

Rounds = Annotated[tuple[Count, ...], Field(max_length=100_000)]


class Holding(BaseModel):
    """A release that holds updates of the merchant, in itself or by its parents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel: Word
    version: Count
    run: Label
    rounds: Rounds
    """The rounds of this run whose aggregates hold an update of the merchant."""
    inherited_from: Rounds
    """Earlier releases from whose models it goes on, and which hold updates of the merchant."""
    since: Annotated[Instant, Field(description="UTC")]
    """When it was published."""
    until: Instant | None
    """When the next release of the channel took its place; absent: it is the newest."""


class UnreleasedRun(BaseModel):
    """A run whose aggregates hold updates of the merchant, and which was not released."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Label
    rounds: Rounds
    """The rounds whose aggregates hold an update of the merchant; empty: one was delivered and is
    in no aggregate yet."""
    ended: bool
    """Whether the run has ended; else it may be released yet."""


class Releases(Protocol):
    """What of a log is asked for; the auditor's view and the server's log both give it."""

    @property
    def releases(self) -> list[ReleaseLeaf]:
        """Every release that the log states."""
        ...

    def contributions(self, merchant: str) -> dict[str, list[int]]:
        """The rounds of each run whose aggregates hold an update of this merchant."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoggedReleases:
    """The releases, aggregates and ended runs of a log."""

    releases: list[ReleaseLeaf]
    aggregates: Mapping[str, Sequence[AggregateLeaf]]
    """By run, in the order of the log."""
    ended: frozenset[str]

    @staticmethod
    def of(leaves: Iterable[Leaf]) -> "LoggedReleases":
        """What the leaves of a log, or of its beginning, state."""
        releases: list[ReleaseLeaf] = []
        aggregates: dict[str, list[AggregateLeaf]] = defaultdict(list)
        ended: set[str] = set()
        for leaf in leaves:
            match leaf:
                case ReleaseLeaf():
                    releases.append(leaf)
                case AggregateLeaf():
                    aggregates[leaf.run].append(leaf)
                case EndLeaf():
                    ended.add(leaf.run)
                case _:
                    pass
        return LoggedReleases(releases=releases, aggregates=aggregates, ended=frozenset(ended))

    def contributions(self, merchant: str) -> dict[str, list[int]]:
        """The rounds of each run whose aggregates hold an update of this merchant."""
        found = {
            run: sorted(one.round for one in rounds if merchant in one.inputs)
            for run, rounds in self.aggregates.items()
        }
        return {run: rounds for run, rounds in found.items() if rounds}


def holdings(log: Releases, merchant: str) -> list[Holding]:
    """The releases in which a merchant's updates are, by channel, oldest first.

    A release that restores an earlier one holds what that one holds.
    """
    contributed = log.contributions(merchant)
    releases = {(one.channel, one.version): one for one in log.releases}
    found = []
    for _, one in sorted(releases.items()):
        line = [each for each in _line(one, releases) if each.run in contributed]
        if line:
            own = () if one.restores else tuple(contributed.get(one.run, ()))
            found.append(_holding(one, own, line, releases))
    return found


def unreleased(log: LoggedReleases, merchant: str) -> list[UnreleasedRun]:
    """The runs with a merchant's updates that no release was made of, by name."""
    released = {one.run for one in log.releases if one.restores is None}
    return [
        UnreleasedRun(run=run, rounds=tuple(rounds), ended=run in log.ended)
        for run, rounds in sorted(log.contributions(merchant).items())
        if run not in released
    ]


def newest(log: Releases) -> dict[str, int]:
    """Each channel with the version of its newest release."""
    return {one.channel: one.version for one in sorted(log.releases, key=lambda one: one.version)}


def newest_without(log: Releases, merchant: str) -> dict[str, int]:
    """Each channel with the version of its newest release that does not hold the merchant."""
    held = {(one.channel, one.version) for one in holdings(log, merchant)}
    free = [one for one in log.releases if (one.channel, one.version) not in held]
    return {one.channel: one.version for one in sorted(free, key=lambda one: one.version)}


def _holding(
    release: ReleaseLeaf,
    own: tuple[int, ...],
    line: list[ReleaseLeaf],
    releases: Mapping[tuple[str, int], ReleaseLeaf],
) -> Holding:
    later = [
        other.created
        for (channel, version), other in sorted(releases.items())
        if channel == release.channel and version > release.version
    ]
    return Holding(
        channel=release.channel,
        version=release.version,
        run=release.run,
        rounds=own,
        inherited_from=tuple(sorted({each.version for each in line} - {release.version})),
        since=release.created,
        until=later[0] if later else None,
    )


def _line(
    release: ReleaseLeaf, releases: Mapping[tuple[str, int], ReleaseLeaf]
) -> list[ReleaseLeaf]:
    """The release and all that it goes on from, each once."""
    line: list[ReleaseLeaf] = []
    one: ReleaseLeaf | None = release
    while one is not None and one not in line:
        line.append(one)
        before = one.restores or one.parent
        one = None if before is None else releases.get((release.channel, before))
    return line
