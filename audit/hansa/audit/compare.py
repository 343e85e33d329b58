"""Whether several people were shown the same log, and whether their ledgers stand in it.

A fork needs two different answers to two people. Each is signed, so both together are the proof.
"""

from collections.abc import Callable, Sequence
from typing import Final

from hansa.audit.copies import CheckpointSource, Copies, LedgerSource, LogSource
from hansa.audit.findings import Check
from hansa.audit.log_view import LogView
from hansa.core.errors import AuditFailedError, HansaError, InvalidInputError

_SAME: Final = "logs are one"
_SIGNED: Final = "log is signed and whole"
_SEEN: Final = "log goes on from what was seen"
_BOOKED: Final = "ledger is in the log"


def compare(copies: Copies, *, plan_key: str | None = None) -> list[Check]:
    """Holds everything against everything else; never stops at the first fault.

    Args:
        copies: packs, pulled logs, exported checkpoints and ledgers.
        plan_key: the operator's public plan key (hexadecimal) that the auditor trusts; absent, the
            key of the first checkpoint, which all others must then be signed by.

    Raises:
        InvalidInputError: there are fewer than two things to compare.
    """
    if len(copies.logs) + len(copies.checkpoints) + len(copies.ledgers) < 2:
        raise InvalidInputError("there is nothing to compare; name at least two copies")
    return _Comparison(copies, plan_key or _first_key(copies)).checks()


def _first_key(copies: Copies) -> str | None:
    return copies.checkpoints[0].signed.key_id if copies.checkpoints else None


class _Comparison:
    """One pass over all copies."""

    def __init__(self, copies: Copies, key: str | None) -> None:
        self._copies = copies
        self._key = key
        self._views: list[tuple[str, LogView]] = []
        self._checks: list[Check] = []

    def checks(self) -> list[Check]:
        """All checks in order."""
        for one in self._copies.logs:
            self._try(_SIGNED, one.source, lambda one=one: self._open(one))  # type: ignore[misc]
        self._compare_logs()
        self._compare_equal_sizes()
        for seen in self._copies.checkpoints:
            self._try(_SEEN, seen.source, lambda seen=seen: self._extends(seen))  # type: ignore[misc]
        for book in self._copies.ledgers:
            self._try(_BOOKED, book.source, lambda book=book: self._booked(book))  # type: ignore[misc]
        return self._checks

    def _try(self, name: str, where: str, examine: Callable[[], str]) -> None:
        try:
            detail, passed = examine(), True
        except HansaError as error:
            detail, passed = str(error), False
        self._checks.append(Check(name=name, where=where, passed=passed, detail=detail))

    def _open(self, one: LogSource) -> str:
        view = LogView.of(one.copy, key_id=self._key)
        self._key = self._key or view.key_id
        self._views.append((one.source, view))
        view.check_root()
        return str(view.checkpoint)

    def _compare_logs(self) -> None:
        """Each with the longest: where all agree with it, they agree with one another."""
        if len(self._views) < 2:
            return
        name, longest = self._longest()
        for source, view in self._views:
            if view is not longest:
                where = f"{source} and {name}"
                self._try(_SAME, where, lambda view=view: _is_beginning(view, longest))  # type: ignore[misc]

    def _longest(self) -> tuple[str, LogView]:
        if not self._views:
            raise InvalidInputError("no copy of the log is among the files; add a pack")
        return max(self._views, key=lambda item: len(item[1].leaves))

    def _compare_equal_sizes(self) -> None:
        """Two signed checkpoints of one size and two roots prove a fork without any log."""
        seen: dict[tuple[str, int], CheckpointSource] = {}
        for one in self._copies.checkpoints:
            point = one.signed.checkpoint
            other = seen.setdefault((point.origin, point.size), one)
            if other.signed.checkpoint.root != point.root:
                detail = f"log entry {point.size}: two logs of {point.size} entries were shown"
                where = f"{other.source} and {one.source}"
                self._checks.append(Check(name=_SAME, where=where, passed=False, detail=detail))

    def _extends(self, seen: CheckpointSource) -> str:
        point = seen.signed.verify(key_id=self._key)
        if not self._views:
            return f"signed: {point}"
        _, longest = self._longest()
        try:
            longest.check_extends(point)
        except AuditFailedError as error:
            raise AuditFailedError(f"{error}{self._last_common(seen, longest)}") from error
        return str(point)

    def _last_common(self, seen: CheckpointSource, log: LogView) -> str:
        """Since which entry they differ, as far as the same witness' other checkpoints tell."""
        sizes = [
            one.signed.checkpoint.size
            for one in self._copies.checkpoints
            if one.source == seen.source and _fits(one, log)
        ]
        return f"; up to entry {max(sizes)} they agree" if sizes else ""

    def _booked(self, book: LedgerSource) -> str:
        if not self._views:
            return f"{len(book.entries)} entries, signed and in order"
        _, log = self._longest()
        merchant = _keeper(book, log)
        logged = log.entries(merchant)
        for entry in book.entries:
            known = logged.get(entry.position)
            if known is not None and known.hash_ != entry.hash:
                raise AuditFailedError(
                    f"ledger entry {entry.position} of {merchant}: the log holds another one at "
                    f"log entry {log.place_of(known)}"
                )
        later = max(0, len(book.entries) - len(logged))
        return f"{merchant}: {len(book.entries)} entries, {later} of them not logged (yet)"


def _is_beginning(shorter: LogView, longer: LogView) -> str:
    for index, (one, other) in enumerate(zip(shorter.leaves, longer.leaves, strict=False)):
        if one != other:
            raise AuditFailedError(
                f"log entry {index}: two different entries were shown: {_words(shorter, index)} "
                f"and {_words(longer, index)}"
            )
    return f"the same {len(shorter.leaves)} entries"


def _words(log: LogView, index: int) -> str:
    return log.body(index).decode("utf-8", errors="replace")[:200]


def _fits(one: CheckpointSource, log: LogView) -> bool:
    try:
        log.check_extends(one.signed.checkpoint)
    except AuditFailedError:
        return False
    return True


def _keeper(book: LedgerSource, log: LogView) -> str:
    """Whose ledger it is: its key, or its first entry, stands in the log."""
    for merchant in log.merchants():
        keys = {one.ledger_key for one in log.members(merchant)}
        first = log.entries(merchant).get(0)
        if book.public_key in keys or (first and first.hash_ == book.entries[0].hash):
            return merchant
    raise AuditFailedError("ledger entry 0: nobody's ledger in the log begins like this one")


def first_fault(checks: Sequence[Check]) -> Check | None:
    """The first check that failed."""
    return next((one for one in checks if not one.passed and not one.absent), None)
