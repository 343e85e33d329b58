"""What a ledger's open and committed reservations cost together, cap by cap.

Four things are counted: all of the book (``lifetime``), each plan by its digest and by its name,
each calendar month (UTC), and all that is no training (``metrics``). Client, server and auditor
decide with this one class whether a reservation keeps to the caps.

A larger set of events never costs less. So where twice the events keep to a cap, the next rounds
need no computation: ``_Horizon`` remembers the largest set that is known to keep to it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from hansa.core.contract import Contract
from hansa.core.privacy.accounting import epsilon_reference, exceeding, round_up
from hansa.core.privacy.bodies import Accept, Open, RaiseCap, Release, Reserve, Scope
from hansa.core.privacy.entries import Entry
from hansa.core.privacy.events import PrivacyEvent, count_of, covers, merge, times

TRAIN: Final = "train"
"""The phase of training; every other phase is paid out of the metrics share."""

_LONGEST_LOOK: Final = 1.0
_SHORTEST_LOOK: Final = 0.05
"""A set is tried that is larger by 100 %, and if that is too dear by less, down to 5 %."""


@dataclass(frozen=True, kw_only=True)
class Caps:
    """What a book may cost, by what is counted; None: no cap of its own."""

    lifetime: float
    plan: float | None
    month: float | None
    metrics: float

    @classmethod
    def of(cls, contract: Contract, cap_epsilon: float) -> "Caps":
        """The caps of a book.

        Args:
            contract: the terms in force.
            cap_epsilon: the book's own cap, as last raised.
        """
        lifetime = min(cap_epsilon, contract.lifetime_epsilon or cap_epsilon)
        return cls(
            lifetime=lifetime,
            plan=contract.plan_epsilon,
            month=contract.month_epsilon,
            metrics=contract.metrics_share * lifetime,
        )

    def loosened(self, by: float) -> "Caps":
        """The same caps, each larger, for a judge whose accountant is another version."""
        return Caps(
            lifetime=self.lifetime + by,
            plan=None if self.plan is None else self.plan + by,
            month=None if self.month is None else self.month + by,
            metrics=self.metrics + by,
        )

    @classmethod
    def lifetime_alone(cls, cap_epsilon: float) -> "Caps":
        """The caps of a book in which no contract was accepted: all that it promised."""
        return cls(lifetime=cap_epsilon, plan=None, month=None, metrics=cap_epsilon)


@dataclass(frozen=True, kw_only=True)
class Overdraft:
    """A cap that a reservation would exceed."""

    scope: Scope
    epsilon: float
    """Of what the scope counts, with the reservation."""
    cap: float

    def sentence(self) -> str:
        """What is wrong, without a verb for who is to blame."""
        what = {
            "lifetime": "the cap",
            "plan": "the cap for one plan",
            "month": "the cap for one month",
            "metrics": "the share for metrics",
        }
        return f"epsilon to {shown(self.epsilon)}, above {what[self.scope]} of {self.cap:g}"


def shown(epsilon: float) -> str:
    """Epsilon for people: never below the true value."""
    return str(round_up(epsilon))


def plan_name(run: str) -> str:
    """The name of a run's plan: runs are called NAME-0001 and so on."""
    name, _, number = run.rpartition("-")
    return name if name and number.isdigit() else run


@dataclass(kw_only=True)
class _Horizon:
    """What is known of a scope's costs; it says nothing of what was counted, so forks share it."""

    kept: tuple[PrivacyEvent, ...] = ()
    """The largest set that is known to cost no more than ``cap``."""
    cap: float = 0.0
    look: float = _LONGEST_LOOK
    """How far ahead the next look goes; each that is too dear makes it shorter."""

    def covers(self, events: tuple[PrivacyEvent, ...], cap: float) -> bool:
        """Whether these events are known to keep to the cap."""
        return bool(self.kept) and cap >= self.cap and covers(self.kept, events)

    def widen(self, events: tuple[PrivacyEvent, ...], delta: float, cap: float) -> None:
        """Remembers a larger set that keeps to the cap as well, if one is found."""
        if cap != self.cap:
            self.kept, self.cap, self.look = (), cap, _LONGEST_LOOK
        while self.look >= _SHORTEST_LOOK:
            ahead = tuple(_more(event, self.look) for event in events)
            if exceeding((), ahead, delta, cap) is None:
                self.kept = ahead
                return
            self.look /= 2.0


@dataclass(kw_only=True)
class _Tally:
    """The events of one scope."""

    counts: dict[PrivacyEvent, int] = field(default_factory=dict)
    """Each mechanism, run once, to how often it ran."""
    horizon: _Horizon = field(default_factory=_Horizon)

    def add(self, events: Sequence[PrivacyEvent], sign: int = 1) -> None:
        for once, count in _counted(events):
            left = self.counts.get(once, 0) + sign * count
            if left:
                self.counts[once] = left
            else:
                self.counts.pop(once, None)

    def events(self, more: Sequence[PrivacyEvent] = ()) -> tuple[PrivacyEvent, ...]:
        return merge([*(times(once, count) for once, count in self.counts.items()), *more])

    def excess(self, more: Sequence[PrivacyEvent], delta: float, cap: float) -> float | None:
        """Epsilon with these events too, where it is above the cap."""
        events = self.events(more)
        if self.horizon.covers(events, cap):
            return None
        epsilon = exceeding((), events, delta, cap)
        if epsilon is None:
            self.horizon.widen(events, delta, cap)
        return epsilon


class Spending:
    """What is spent, by scope; released reservations do not count."""

    def __init__(self, delta: float) -> None:
        self._delta = delta
        self._tallies: dict[tuple[str, str], _Tally] = {}

    def fork(self) -> "Spending":
        """A copy that can be given up."""
        copy = Spending(self._delta)
        copy._tallies = {
            key: _Tally(counts=dict(tally.counts), horizon=tally.horizon)
            for key, tally in self._tallies.items()
        }
        return copy

    def add(self, body: Reserve, time: str) -> None:
        """Counts a reservation that was booked at this moment (as entries write it)."""
        for key in _keys(body, time):
            self._tally(key).add(body.events)

    def take_back(self, body: Reserve, time: str) -> None:
        """Counts a reservation no more; the arguments are those of ``add``."""
        for key in _keys(body, time):
            self._tally(key).add(body.events, -1)

    def overdraft(self, body: Reserve, time: str, caps: Caps) -> Overdraft | None:
        """The first cap that would be exceeded if this were reserved too; nothing is counted."""
        limits: tuple[tuple[Scope, tuple[str, str], float | None], ...] = (
            ("lifetime", _LIFETIME, caps.lifetime),
            ("plan", ("digest", body.plan_digest), caps.plan),
            ("plan", ("name", plan_name(body.run)), caps.plan),
            ("month", ("month", month_of(time)), caps.month),
            ("metrics", _METRICS, None if body.phase == TRAIN else caps.metrics),
        )
        for scope, key, cap in limits:
            if cap is None:
                continue
            epsilon = self._tally(key).excess(body.events, self._delta, cap)
            if epsilon is not None:
                return Overdraft(scope=scope, epsilon=epsilon, cap=cap)
        return None

    def events(self) -> tuple[PrivacyEvent, ...]:
        """Everything, merged."""
        return self._tally(_LIFETIME).events()

    def epsilon(self) -> float:
        """Of everything."""
        return epsilon_reference(self.events(), self._delta)

    def metrics_epsilon(self) -> float:
        """Of everything that is no training."""
        return epsilon_reference(self._tally(_METRICS).events(), self._delta)

    def month_epsilon(self, month: str) -> float:
        """Of one calendar month, as ``month_of`` names it."""
        return epsilon_reference(self._tally(("month", month)).events(), self._delta)

    def plan_epsilon(self, name: str) -> float:
        """Of all runs of the plan of this name."""
        return epsilon_reference(self._tally(("name", name)).events(), self._delta)

    def months(self) -> tuple[str, ...]:
        """The months in which something was reserved, oldest first."""
        return self._named("month")

    def plans(self) -> tuple[str, ...]:
        """The names of the plans for which something was reserved."""
        return self._named("name")

    def _named(self, kind: str) -> tuple[str, ...]:
        tallies = self._tallies.items()
        return tuple(sorted(key[1] for key, one in tallies if key[0] == kind and one.counts))

    def _tally(self, key: tuple[str, str]) -> _Tally:
        return self._tallies.setdefault(key, _Tally())


_LIFETIME: Final = ("lifetime", "")
_METRICS: Final = ("metrics", "")


def month_of(time: str) -> str:
    """The calendar month (UTC) of a moment, as ``2026-11``."""
    return time[:7]


def _keys(body: Reserve, time: str) -> Iterable[tuple[str, str]]:
    yield _LIFETIME
    yield "digest", body.plan_digest
    yield "name", plan_name(body.run)
    yield "month", month_of(time)
    if body.phase != TRAIN:
        yield _METRICS


@lru_cache(maxsize=1024)
def _counted(events: tuple[PrivacyEvent, ...]) -> tuple[tuple[PrivacyEvent, int], ...]:
    return tuple((times(event, 1), count_of(event)) for event in events)


def _more(event: PrivacyEvent, share: float) -> PrivacyEvent:
    """The event with its count grown by this share, at least by one."""
    count = count_of(event)
    return times(event, count + max(1, round(share * count)))


FindReservation = Callable[[str], tuple[Reserve, str] | None]
"""From a task's id to its reservation and the time of that entry."""


class CapWatch:
    """Follows a stranger's book entry by entry, and sees where it exceeds a cap.

    Before the first accepted contract a book promised its lifetime cap alone, and is judged by it.
    """

    def __init__(self, slack: float = 0.0) -> None:
        """Judges with caps that are larger by ``slack`` (epsilon)."""
        self._slack = slack
        self._cap = 0.0
        self._contract: Contract | None = None
        self.spending = Spending(_NO_DELTA)

    def fork(self) -> "CapWatch":
        """A watch that goes on from here and can be given up."""
        fork = CapWatch(self._slack)
        fork._cap, fork._contract = self._cap, self._contract
        fork.spending = self.spending.fork()
        return fork

    @property
    def contract(self) -> Contract | None:
        """The terms in force; None before the first."""
        return self._contract

    def overdraft(self, entry: Entry) -> Overdraft | None:
        """The cap that this entry would exceed; nothing is counted yet."""
        if not isinstance(entry.body, Reserve):
            return None
        return self.spending.overdraft(entry.body, entry.time, self.caps())

    def admit(self, entry: Entry, find: FindReservation) -> None:
        """Counts an entry of a book that keeps to its rules."""
        match entry.body:
            case Open() as body:
                self._cap, self.spending = body.cap_epsilon, Spending(body.delta)
            case RaiseCap() as body:
                self._cap = body.cap_epsilon
            case Accept() as body:
                self._contract = body.contract
            case Reserve() as body:
                self.spending.add(body, entry.time)
            case Release() as body if (found := find(body.id)) is not None:
                self.spending.take_back(*found)
            case _:
                pass

    def caps(self) -> Caps:
        """The caps in force."""
        if self._contract is None:
            return Caps.lifetime_alone(self._cap).loosened(self._slack)
        return Caps.of(self._contract, self._cap).loosened(self._slack)


_NO_DELTA: Final = 0.5
"""Before the opening entry, when there is nothing to count."""
