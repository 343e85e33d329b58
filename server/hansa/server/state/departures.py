"""Who has left, and the receipt that each got.

A membership ends in one transaction with the note for the log and the row that says so. The receipt
is made after it, from a log that states it, and written down once: whatever dies in between, the
merchant asks again and gets the one receipt of its membership.
"""

import hashlib
from collections.abc import Callable, Sequence

from sqlalchemy import Engine, Select, or_, select, update
from sqlalchemy.orm import Session

from hansa.core.errors import ConflictError, UnauthorisedError
from hansa.core.receipt import Remedy
from hansa.server.state.database import retried, writing
from hansa.server.state.fact_notes import note_membership
from hansa.server.state.runs import UNFINISHED
from hansa.server.state.tables import DepartureRow, MerchantRow, RunRow, TaskRow

Clock = Callable[[], float]

_TRAIN = "train"


class Departures:
    """All that have left, each membership once."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def find(self, merchant: str, certificate_der: bytes) -> DepartureRow | None:
        """The departure of the membership to which this certificate belonged."""
        with Session(self._engine) as session:
            return session.scalar(_of(merchant, _sha(certificate_der)))

    @retried
    def leave(
        self,
        merchant: str,
        remedy: Remedy,
        *,
        certificate_der: bytes | None,
        notice: bytes | None,
    ) -> DepartureRow:
        """Ends a membership, once; a repetition changes nothing, whatever remedy it names.

        Args:
            merchant: who leaves.
            remedy: what it chose.
            certificate_der: the certificate that it shows; absent, the operator acts on a notice,
                also for somebody who was revoked.
            notice: the merchant's own signed words, verified.

        Raises:
            UnauthorisedError: it is no member, or another certificate was issued since.
            ConflictError: the operator acts for somebody who is invited, or never was a member.
        """
        with writing(self._engine) as session:
            query = select(MerchantRow).where(MerchantRow.name == merchant).with_for_update()
            row = session.scalar(query)
            shown = certificate_der or (None if row is None else row.certificate_der)
            found = None if shown is None else session.scalar(_of(merchant, _sha(shown)))
            if found is None:
                last = _leaving(row, merchant, certificate_der)
                found = _departure(last, remedy, notice, self._clock())
                session.add(found)
                last.state = "left"
                note_membership(session, last, "left")
            session.flush()
            session.expunge(found)
            return found

    @retried
    def keep_receipt(self, departure: DepartureRow, receipt: bytes) -> bytes:
        """Writes the receipt down; returns the one that counts, which may be an earlier one."""
        key = (
            DepartureRow.merchant == departure.merchant,
            DepartureRow.certificate_sha256 == departure.certificate_sha256,
        )
        unwritten = update(DepartureRow).where(*key, DepartureRow.receipt.is_(None))
        with writing(self._engine) as session:
            session.execute(unwritten.values(receipt=receipt))
            kept = session.scalar(select(DepartureRow.receipt).where(*key))
        return kept or receipt

    def everyone(self) -> Sequence[DepartureRow]:
        """All departures by their time."""
        query = select(DepartureRow).order_by(DepartureRow.time, DepartureRow.merchant)
        with Session(self._engine) as session:
            return session.scalars(query).all()

    def in_hand(self, merchant: str) -> list[str]:
        """The unfinished runs for which the merchant has delivered an update, by name.

        What is delivered enters an aggregate when the round closes, also after the leaving.
        """
        answered = (TaskRow.merchant == merchant, TaskRow.state == "done", TaskRow.phase == _TRAIN)
        query = (
            select(TaskRow.run_id)
            .join(RunRow, RunRow.run_id == TaskRow.run_id)
            .where(*answered, RunRow.state.in_(UNFINISHED))
            .distinct()
        )
        with Session(self._engine) as session:
            return sorted(session.scalars(query))


def _leaving(row: MerchantRow | None, merchant: str, certificate_der: bytes | None) -> MerchantRow:
    """The row of somebody who may leave now."""
    by_notice = certificate_der is None
    allowed = ("member", "revoked") if by_notice else ("member",)
    if row is None or row.state not in allowed or row.certificate_der is None:
        sentence = f"merchant {merchant!r} is not a member of this federation"
        raise ConflictError(sentence) if by_notice else UnauthorisedError(sentence)
    if not by_notice and certificate_der not in (row.certificate_der, row.previous_certificate_der):
        raise UnauthorisedError("this certificate was replaced by a newer one")
    return row


def _departure(row: MerchantRow, remedy: Remedy, notice: bytes | None, now: float) -> DepartureRow:
    previous = row.previous_certificate_der
    return DepartureRow(
        merchant=row.name,
        certificate_sha256=_sha(row.certificate_der or b""),
        previous_sha256=None if previous is None else _sha(previous),
        remedy=remedy,
        notice=notice,
        time=now,
    )


def _of(merchant: str, sha256: str) -> Select[DepartureRow]:
    held = or_(DepartureRow.certificate_sha256 == sha256, DepartureRow.previous_sha256 == sha256)
    return select(DepartureRow).where(DepartureRow.merchant == merchant, held)


def _sha(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()
