"""Merchants that leave: the membership ends, the receipt says what holds their updates."""

import datetime as dt
import time

from sqlalchemy import Engine

from hansa.core.canonical import sha256_hex
from hansa.core.errors import (
    HansaError,
    InvalidInputError,
    LedgerError,
    NotFoundError,
    SignatureError,
    UnauthorisedError,
)
from hansa.core.ids import MerchantId
from hansa.core.privacy.accounting import round_up
from hansa.core.privacy.bodies import Open
from hansa.core.privacy.entries import Entry
from hansa.core.privacy.ledger import Ledger
from hansa.core.receipt import (
    MAX_NOTICE_BYTES,
    REMEDIES,
    ChannelRelease,
    LedgerPlace,
    Notice,
    Receipt,
    Remedy,
    Spent,
    moment_of,
    read_notice,
)
from hansa.core.signing import Signed
from hansa.core.transparency.holdings import (
    LoggedReleases,
    UnreleasedRun,
    holdings,
    newest,
    newest_without,
    unreleased,
)
from hansa.core.transparency.leaves import parse_leaf
from hansa.protos.v1 import operator_pb2 as pb
from hansa.server.evidence import EvidenceDesk
from hansa.server.state.departures import Departures
from hansa.server.state.journal import Journal
from hansa.server.state.tables import DepartureRow
from hansa.server.switchboard import Switchboard


class LeaveDesk:
    """Ends memberships for receipts, and says what is still owed."""

    def __init__(
        self, engine: Engine, evidence: EvidenceDesk, journal: Journal, switchboard: Switchboard
    ) -> None:
        self._departures = Departures(engine, time.time)
        self._evidence = evidence
        self._journal = journal
        self._switchboard = switchboard

    def leave(self, merchant: str, certificate_der: bytes, remedy: str, notice: bytes) -> bytes:
        """The caller leaves, or left with this certificate before; returns its receipt.

        Raises:
            UnauthorisedError: it is no member, or the notice is not its own.
            InvalidInputError: there is no such remedy, or the notice says something else.
        """
        known = self._departures.find(merchant, certificate_der)
        if known is None:
            chosen = _remedy(remedy)
            if notice:
                said = self._own_notice(notice, merchant)
                _check_notice(said, merchant, chosen)
            known = self._departures.leave(
                merchant, chosen, certificate_der=certificate_der, notice=notice or None
            )
        return self._finish(known)

    def take_notice(self, notice: bytes) -> bytes:
        """A merchant leaves by a file that its ledger's key has signed; returns its receipt.

        Raises:
            UnauthorisedError: the notice is not signed by the ledger's key of whom it names.
            NotFoundError: there is no such merchant.
            ConflictError: it never was a member, or is none any more.
        """
        merchant = _named_in(notice)
        said = self._own_notice(notice, merchant)
        for row in self._departures.everyone():
            if row.notice == notice:
                return self._finish(row)  # the reply was lost: the same file gets the same receipt
        self._check_certificate(said)
        row = self._departures.leave(merchant, said.remedy, certificate_der=None, notice=notice)
        return self._finish(row)

    def obligations(self) -> list[pb.Obligation]:
        """What was asked for by those who left, and whether it is done; read from the log."""
        rows = self._departures.everyone()
        log = self._log()[1] if rows else None
        return [] if log is None else [self._obligation(row, log) for row in rows]

    def _own_notice(self, notice: bytes, merchant: str) -> Notice:
        key = self._evidence.members.ledger_key(merchant)
        if key is None:
            raise NotFoundError(f"there is no merchant {merchant!r} with a ledger")
        try:
            return read_notice(notice, key_id=key.hex())
        except SignatureError as error:
            raise UnauthorisedError(str(error)) from error

    def _check_certificate(self, said: Notice) -> None:
        """A notice from an earlier membership must not end the present one."""
        if said.certificate_sha256 is None:
            return
        for row in self._evidence.members.everyone():
            held = (row.certificate_der, row.previous_certificate_der)
            if row.name == said.merchant and not any(
                one is not None and sha256_hex(one) == said.certificate_sha256 for one in held
            ):
                raise UnauthorisedError(
                    "the notice is about a certificate that does not count any more; ask the "
                    "merchant for a new one"
                )

    def _finish(self, departure: DepartureRow) -> bytes:
        """Whatever died before: no work is open, and there is a receipt."""
        if departure.receipt is not None:
            return departure.receipt
        merchant = departure.merchant
        self._evidence.tasks.expire_merchant(merchant)
        self._journal.note("left", merchant=merchant, remedy=departure.remedy)
        self._switchboard.wake(merchant)
        self._switchboard.announce()
        receipt = self._receipt(departure).signed(self._evidence.plan_key)
        return self._departures.keep_receipt(departure, receipt)

    def _receipt(self, departure: DepartureRow) -> Receipt:
        merchant = MerchantId(departure.merchant)
        # First: what is aggregated or released in between stands in the log that is read next.
        in_hand = self._departures.in_hand(merchant)
        checkpoint, log = self._log()
        key = self._evidence.members.ledger_key(merchant)
        certificates = (departure.certificate_sha256, departure.previous_sha256)
        free = newest_without(log, merchant)
        return Receipt(
            merchant=merchant,
            remedy=_remedy(departure.remedy),
            time=moment_of(dt.datetime.fromtimestamp(departure.time, dt.UTC)),
            certificates=tuple(one for one in certificates if one is not None),
            ledger_key=None if key is None else key.hex(),
            notice=None if departure.notice is None else departure.notice.decode(),
            spent=spent_of(self._evidence.ledger(merchant)),
            releases=tuple(holdings(log, merchant)),
            runs=tuple(_runs(log, merchant, in_hand)),
            newest_without=tuple(
                ChannelRelease(channel=channel, version=version)
                for channel, version in sorted(free.items())
            ),
            checkpoint=checkpoint.decode(),
        )

    def _log(self) -> tuple[bytes, LoggedReleases]:
        copy = self._evidence.log.copy()
        leaves = (parse_leaf(body, f"log entry {at}") for at, body in enumerate(copy.leaves))
        return copy.checkpoint, LoggedReleases.of(leaves)

    def _obligation(self, row: DepartureRow, log: LoggedReleases) -> pb.Obligation:
        held = holdings(log, row.merchant)
        pairs = {(one.channel, one.version) for one in held}
        free, last = newest_without(log, row.merchant), newest(log)
        channels = [
            pb.ChannelState(
                channel=channel,
                newest_version=last[channel],
                holding=[one.version for one in held if one.channel == channel],
                newest_holds=(channel, last[channel]) in pairs,
                newest_without=free.get(channel, 0),
            )
            for channel in sorted({one.channel for one in held})
        ]
        runs = _runs(log, row.merchant, self._departures.in_hand(row.merchant))
        going_on = [one.run for one in runs if not one.ended]
        to_do = any(one.newest_holds for one in channels) or bool(going_on)
        return pb.Obligation(
            merchant=row.merchant,
            remedy=row.remedy,
            left_unix_s=int(row.time),
            open=row.remedy != "stated-bound" and to_do,
            channels=channels,
            unfinished_runs=going_on,
            receipt=row.receipt or b"",
        )


def _runs(log: LoggedReleases, merchant: str, in_hand: list[str]) -> list[UnreleasedRun]:
    """The runs that are in no release, those included whose round is still open."""
    found = {one.run: one for one in unreleased(log, merchant)}
    for run in in_hand:
        if run not in log.ended:
            found.setdefault(run, UnreleasedRun(run=run, rounds=(), ended=False))
    return [found[run] for run in sorted(found)]


def spent_of(entries: tuple[Entry, ...]) -> Spent | None:
    """What a verified copy of a ledger says was spent; None where there is no copy."""
    if not entries or not isinstance(entries[0].body, Open):
        return None
    opening, last = entries[0].body, entries[-1]
    try:
        epsilon = str(round_up(Ledger(entries).spent_epsilon()))
    except LedgerError:
        epsilon = None
    return Spent(
        place=LedgerPlace(entries=len(entries), head=last.hash),
        epsilon=epsilon,
        delta=opening.delta,
        unit=opening.unit,
    )


def _remedy(text: str) -> Remedy:
    for one in REMEDIES:
        if one == text:
            return one
    raise InvalidInputError(f"the remedy must be one of {', '.join(REMEDIES)}")


def _check_notice(said: Notice, merchant: str, remedy: Remedy) -> None:
    if (said.merchant, said.remedy) != (merchant, remedy):
        raise InvalidInputError("the notice names another merchant or remedy than the request")


def _named_in(notice: bytes) -> str:
    """Whom a notice names, before anything of it is believed."""
    if len(notice) > MAX_NOTICE_BYTES:
        raise InvalidInputError("this is no notice: it is too large")
    try:
        return Notice.model_validate(Signed.parse(notice, "the notice").payload).merchant
    except (HansaError, ValueError) as error:
        raise InvalidInputError(f"this is no merchant's notice: {error}") from error
