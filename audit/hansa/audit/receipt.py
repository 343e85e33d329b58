"""A leaving merchant's receipt: is it the operator's, and does it leave anything out?"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hansa.audit.copies import Copies, LedgerSource
from hansa.audit.findings import Check
from hansa.audit.log_view import LogView
from hansa.core.errors import AuditFailedError, HansaError
from hansa.core.privacy.accounting import round_up
from hansa.core.privacy.ledger import Ledger
from hansa.core.receipt import Receipt, Spent, read_receipt
from hansa.core.transparency.checkpoint import SignedCheckpoint
from hansa.core.transparency.holdings import (
    Holding,
    LoggedReleases,
    holdings,
    newest,
    newest_without,
    unreleased,
)
from hansa.core.transparency.leaves import AggregateLeaf, MemberLeaf

_SIGNED: Final = "receipt is signed"
_NOTICE: Final = "merchant's own notice"
_LOG: Final = "receipt's log is this one"
_LEFT: Final = "the log says that it left"
_RELEASES: Final = "releases are complete"
_RUNS: Final = "runs are complete"
_LEDGER: Final = "ledger's head is in the log"
_EPSILON: Final = "epsilon is the ledger's"
_AFTER: Final = "nothing of it came later"
_REMEDY: Final = "remedy"


def check_receipt(data: bytes, copies: Copies, *, plan_key: str | None) -> list[Check]:
    """Checks a receipt against what the auditor holds; never stops at the first fault.

    Args:
        data: the receipt.
        copies: packs, pulled logs and ledgers; without a log only the signatures are checked.
        plan_key: the operator's public plan key that is trusted; absent, the receipt's own.

    Raises:
        SignatureError: another key signed, or the receipt was changed.
        InvalidInputError: it is no receipt.
        AuditFailedError: a copy of the log is malformed.
    """
    receipt = read_receipt(data, key_id=plan_key)
    return _Examination(receipt, copies, plan_key).checks()


@dataclass
class _Examination:
    receipt: Receipt
    copies: Copies
    plan_key: str | None
    found: list[Check] = field(default_factory=list)

    def checks(self) -> list[Check]:
        """All checks in order."""
        named = self.plan_key or "the key that it names itself"
        self._passes(_SIGNED, f"by {named[:12]}" if self.plan_key else named)
        self._try(_NOTICE, self._notice)
        view = self._log()
        if view is None:
            self._absent((_LOG, _LEFT, _RELEASES, _RUNS, _LEDGER, _AFTER, _REMEDY))
        elif self._try(_LOG, lambda: self._same_log(view)):
            self._check_log(view)
        self._check_epsilon()
        return self.found

    def _check_log(self, view: LogView) -> None:
        size = self._size()
        then = LoggedReleases.of(view.leaves[:size])
        self._try(_LEFT, lambda: self._left(view, size))
        self._try(_RELEASES, lambda: self._releases(then))
        self._try(_RUNS, lambda: self._runs(then))
        self._try(_LEDGER, lambda: self._ledger(view))
        self._try(_AFTER, lambda: self._after(view, size))
        self._passes(_REMEDY, self._remedy(LoggedReleases.of(view.leaves)))

    def _log(self) -> LogView | None:
        """The longest log of the copies, once it is known to be the one that was signed."""
        views = [LogView.of(one.copy, key_id=self.plan_key) for one in self.copies.logs]
        if not views:
            return None
        longest = max(views, key=lambda view: len(view.leaves))
        longest.check_root()
        return longest

    def _notice(self) -> str:
        said = self.receipt.statement()
        if said is None:
            return "none: its site could not sign, or an older client left"
        return f"{said.merchant} chose {said.remedy} at {said.time}"

    def _size(self) -> int:
        return self.receipt.log(key_id=self._key()).size

    def _key(self) -> str:
        note = self.receipt.checkpoint.encode()
        return self.plan_key or SignedCheckpoint.parse(note, "the receipt's checkpoint").key_id

    def _same_log(self, view: LogView) -> str:
        point = self.receipt.log(key_id=self._key())
        if view.key_id not in ("", self._key()):
            raise AuditFailedError("the log is signed by another key than the receipt's checkpoint")
        view.check_extends(point)
        return str(point)

    def _left(self, view: LogView, size: int) -> str:
        for index, leaf in enumerate(view.leaves[:size]):
            if (
                isinstance(leaf, MemberLeaf)
                and (leaf.merchant, leaf.change) == (self.receipt.merchant, "left")
                and leaf.certificate_sha256 == self.receipt.certificates[0]
            ):
                return f"log entry {index}"
        raise AuditFailedError("the log up to the receipt's checkpoint does not say that it left")

    def _releases(self, log: LoggedReleases) -> str:
        true = holdings(log, self.receipt.merchant)
        stated = list(self.receipt.releases)
        if stated == true:
            return f"{len(true)} releases hold its updates"
        for one in true:
            if one not in stated:
                raise AuditFailedError(f"{_name(one)} holds its updates; left out or changed")
        raise AuditFailedError("the receipt names a release that does not hold its updates")

    def _runs(self, log: LoggedReleases) -> str:
        """Runs whose round was still open then are stated without being in the log yet."""
        stated = {one.run: one for one in self.receipt.runs}
        true = {one.run: one for one in unreleased(log, self.receipt.merchant)}
        for name, one in true.items():
            if stated.get(name) != one:
                raise AuditFailedError(f"run {name} holds its updates; left out or changed")
        for name in stated.keys() - true.keys():
            if stated[name].rounds:
                raise AuditFailedError(f"the log knows no update of it in run {name}")
        return f"{len(stated)} runs that were not released"

    def _ledger(self, view: LogView) -> str:
        spent = self.receipt.spent
        logged = view.entries(self.receipt.merchant)
        if spent is None:
            if logged:
                raise AuditFailedError("the receipt knows no ledger, and the log holds entries")
            return "no entry"
        place = spent.place
        last = logged.get(place.entries - 1)
        if last is None or last.hash_ != place.head:
            raise AuditFailedError(f"ledger entry {place.entries - 1} in the log is another one")
        return f"{place.entries} entries"

    def _after(self, view: LogView, size: int) -> str:
        """Updates that were delivered before may be aggregated after, in runs that are stated."""
        stated = {one.run for one in self.receipt.runs}
        for index, leaf in enumerate(view.leaves[size:], start=size):
            if isinstance(leaf, MemberLeaf) and leaf.merchant == self.receipt.merchant:
                return f"it became a member again with log entry {index}"
            taken = isinstance(leaf, AggregateLeaf) and self.receipt.merchant in leaf.inputs
            if isinstance(leaf, AggregateLeaf) and taken and leaf.run not in stated:
                raise AuditFailedError(
                    f"log entry {index}: an update of it is in round {leaf.round} of {leaf.run}, "
                    "which the receipt does not name"
                )
        return f"{len(view.leaves) - size} log entries since"

    def _remedy(self, log: LoggedReleases) -> str:
        """Whether it was done is no fault of the receipt; it is told."""
        if self.receipt.remedy == "stated-bound":
            return "stated-bound: nothing is to be removed"
        held = {(one.channel, one.version) for one in holdings(log, self.receipt.merchant)}
        still = [f"{name} {last}" for name, last in newest(log).items() if (name, last) in held]
        if not still:
            return f"{self.receipt.remedy}: done, no channel's newest release holds its updates"
        free = newest_without(log, self.receipt.merchant)
        rest = ", ".join(f"{name} {last}" for name, last in sorted(free.items())) or "none"
        return (
            f"{self.receipt.remedy}: OPEN, {', '.join(still)} holds its updates; newest without: "
            f"{rest}"
        )

    def _check_epsilon(self) -> None:
        book, spent = self._book(), self.receipt.spent
        if book is None or spent is None or spent.epsilon is None:
            self._absent((_EPSILON,))
            return
        self._try(_EPSILON, lambda: _epsilon(book, spent))

    def _book(self) -> LedgerSource | None:
        own = [one for one in self.copies.ledgers if one.public_key == self.receipt.ledger_key]
        return max(own, key=lambda one: len(one.entries), default=None)

    def _try(self, name: str, examine: Callable[[], str]) -> bool:
        try:
            detail, passed = examine(), True
        except HansaError as error:
            detail, passed = str(error), False
        where = self.receipt.merchant
        self.found.append(Check(name=name, where=where, passed=passed, detail=detail))
        return passed

    def _passes(self, name: str, detail: str) -> None:
        self._try(name, lambda: detail)

    def _absent(self, names: tuple[str, ...]) -> None:
        detail = "nothing to compare with"
        self.found += [
            Check(name=one, where=self.receipt.merchant, passed=True, detail=detail, absent=True)
            for one in names
        ]


def _name(one: Holding) -> str:
    return f"release {one.version} of {one.channel}"


def _epsilon(book: LedgerSource, spent: Spent) -> str:
    entries = book.entries[: spent.place.entries]
    if len(entries) < spent.place.entries or entries[-1].hash != spent.place.head:
        raise AuditFailedError(f"{book.source} does not hold the receipt's head of the ledger")
    ledger = Ledger(entries)
    true, stated = ledger.spent_epsilon(), spent.epsilon
    if (str(round_up(true)), ledger.opening.delta) != (stated, spent.delta):
        raise AuditFailedError(f"the ledger costs {round_up(true)}, the receipt says {stated}")
    return f"{stated} at delta {spent.delta:g}"
