"""Who belongs to the federation."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from hansa.core.errors import ConflictError, NotFoundError, UnauthorisedError
from hansa.core.ids import MerchantId, ReleaseVersion
from hansa.server.state.tables import MerchantRow

_log = logging.getLogger(__name__)

Clock = Callable[[], float]

HEARTBEAT_PERIOD_S = 2.0
"""Clients renew their liveness this often."""

_ONLINE_FOR_S = 3 * HEARTBEAT_PERIOD_S


@dataclass(frozen=True, kw_only=True)
class Joining:
    """What an accepted join writes down."""

    request_sha256: str
    certificate_der: bytes
    certificate_expires: float
    ledger_public_key: bytes


class Members:
    """The merchants, their certificates, sessions and liveness."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def invite(self, name: MerchantId, *, serial: str, expires: float) -> None:
        """Notes a fresh invitation; an unused older one ceases to be valid.

        Somebody who was revoked, or whose certificate has expired, may be invited again; it must
        then show the ledger key that it had.

        Raises:
            ConflictError: the merchant is a member.
        """
        with Session(self._engine) as session, session.begin():
            row = session.scalar(select(MerchantRow).where(MerchantRow.name == name))
            if row is None:
                row = MerchantRow(name=name, state="invited")
                session.add(row)
            elif row.state == "member" and (row.certificate_expires or 0.0) > self._clock():
                raise ConflictError(
                    f"merchant {name!r} is a member; choose another name or revoke it first"
                )
            row.state, row.request_sha256 = "invited", None
            row.certificate_der = row.previous_certificate_der = None
            row.invitation_serial, row.invitation_expires = serial, expires

    def check_invitation(self, name: str, serial: str, request_sha256: str) -> MerchantRow:
        """The merchant to whom the invitation belongs; it is unused, or used by this very request.

        Raises:
            UnauthorisedError: the invitation is unknown, expired, replaced or used by another
                request.
        """
        row = self._find(name)
        if row is None or row.invitation_serial != serial:
            raise UnauthorisedError(
                "this invitation is not valid any more; ask the operator for a new one"
            )
        if row.state == "member" and row.request_sha256 == request_sha256:
            return row
        if row.state != "invited":
            raise UnauthorisedError(
                "this invitation was used already; ask the operator for a new one"
            )
        if row.invitation_expires < self._clock():
            raise UnauthorisedError("this invitation has expired; ask the operator for a new one")
        return row

    def join(self, name: str, joining: Joining) -> None:
        """Makes the invited merchant a member, once.

        Raises:
            UnauthorisedError: another request used the invitation in the meantime.
        """
        # One conditional statement: of two joins at the same moment, one wins.
        invited = (MerchantRow.name == name, MerchantRow.state == "invited")
        statement = update(MerchantRow).where(*invited).values(state="member", **joining.__dict__)
        with Session(self._engine) as session, session.begin():
            if session.scalar(statement.returning(MerchantRow.node_id)) is None:
                raise UnauthorisedError(
                    "this invitation was used already; ask the operator for a new one"
                )

    def renew(self, name: str, certificate_der: bytes, expires: float) -> None:
        """Replaces a member's certificate; the older one ceases to be valid once this one is used.

        The reply that carries the new certificate may be lost, and must not lock the member out.
        """
        with Session(self._engine) as session, session.begin():
            row = self._member(session, name)
            # One that is still held as previous is the one in use: the present one never arrived.
            row.previous_certificate_der = row.previous_certificate_der or row.certificate_der
            row.certificate_der, row.certificate_expires = certificate_der, expires

    def revoke(self, name: str) -> None:
        """Ends a membership at once.

        Raises:
            NotFoundError: there is no such merchant.
        """
        with Session(self._engine) as session, session.begin():
            row = session.scalar(select(MerchantRow).where(MerchantRow.name == name))
            if row is None:
                raise NotFoundError(f"there is no merchant {name!r}; see 'hansa-server merchants'")
            row.state = "revoked"

    def check_member(self, name: str, certificate_der: bytes) -> None:
        """Lets only the present certificate of a present member pass; asked on every call.

        After a renewal the previous one passes too, until the new one was used.

        Raises:
            UnauthorisedError: revoked, unknown, or another certificate was issued since.
        """
        row = self._find(name)
        if row is None or row.state != "member":
            raise UnauthorisedError(f"merchant {name!r} is not a member of this federation")
        if row.certificate_der == certificate_der:
            self._retire_previous(row)
        elif row.previous_certificate_der != certificate_der:
            raise UnauthorisedError("this certificate was replaced by a newer one")

    def _retire_previous(self, used: MerchantRow) -> None:
        if used.previous_certificate_der is None:
            return
        same = (MerchantRow.name == used.name, MerchantRow.certificate_der == used.certificate_der)
        with Session(self._engine) as session, session.begin():
            session.execute(update(MerchantRow).where(*same).values(previous_certificate_der=None))

    def open_session(self, name: str, software: str) -> int:
        """A new session number; it fences off all older ones."""
        statement = update(MerchantRow).where(
            MerchantRow.name == name, MerchantRow.state == "member"
        )
        # Counted by the database: of two clients at the same moment, each gets a number of its own.
        opened = statement.values(
            session=MerchantRow.session + 1, software=software[:64], last_seen=self._clock()
        )
        with Session(self._engine) as session, session.begin():
            number: int | None = session.scalar(opened.returning(MerchantRow.session))
        if number is None:
            raise UnauthorisedError(f"merchant {name!r} is not a member of this federation")
        return number

    def heartbeat(self, name: str, number: int) -> bool:
        """Notes that the client lives; false when a newer session took over."""
        with Session(self._engine) as session, session.begin():
            row = self._member(session, name)
            if row.session != number:
                return False
            row.last_seen = self._clock()
            return True

    def holds_session(self, name: str, number: int) -> bool:
        """Whether this is the merchant's newest session."""
        row = self._find(name)
        return row is not None and row.session == number

    def record_health(
        self,
        *,
        merchant: MerchantId,
        channel: str,
        version: ReleaseVersion,
        serving: bool,
        sentence: str,
    ) -> None:
        """Notes which release a merchant serves, or that it could not take one."""
        if not serving:
            _log.warning(
                "%s does not serve %s release %s: %s", merchant, channel, version, sentence
            )
            return
        with Session(self._engine) as session, session.begin():
            self._member(session, merchant).serving_version = version

    def everyone(self) -> Sequence[MerchantRow]:
        """All merchants by name."""
        with Session(self._engine) as session:
            return session.scalars(select(MerchantRow).order_by(MerchantRow.name)).all()

    def online(self) -> dict[int, MerchantId]:
        """Node ids and names of members whose heartbeat is fresh."""
        return {row.node_id: MerchantId(row.name) for row in self.everyone() if self.is_online(row)}

    def is_online(self, row: MerchantRow) -> bool:
        """Whether a heartbeat came within the last three periods."""
        return row.state == "member" and row.last_seen >= self._clock() - _ONLINE_FOR_S

    def names(self) -> dict[int, MerchantId]:
        """Node ids and names of all merchants."""
        return {row.node_id: MerchantId(row.name) for row in self.everyone()}

    def _find(self, name: str) -> MerchantRow | None:
        with Session(self._engine) as session:
            return session.scalar(select(MerchantRow).where(MerchantRow.name == name))

    def _member(self, session: Session, name: str) -> MerchantRow:
        row = session.scalar(select(MerchantRow).where(MerchantRow.name == name))
        if row is None or row.state != "member":
            raise UnauthorisedError(f"merchant {name!r} is not a member of this federation")
        return row
