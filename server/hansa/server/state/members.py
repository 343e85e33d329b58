"""Who belongs to the federation."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, Select, bindparam, select, update
from sqlalchemy.orm import Session

from hansa.core.errors import ConflictError, NotFoundError, UnauthorisedError
from hansa.core.ids import MerchantId, ReleaseVersion
from hansa.server.state.database import retried, writing
from hansa.server.state.fact_notes import note_membership
from hansa.server.state.pulse import Pulse
from hansa.server.state.tables import MerchantRow

_log = logging.getLogger(__name__)

Clock = Callable[[], float]

_ROW = MerchantRow.__table__.c
# Made once: it is asked on every call.
_STANDING = select(
    _ROW.name, _ROW.state, _ROW.certificate_der, _ROW.previous_certificate_der
).where(_ROW.name.in_(bindparam("names", expanding=True)))

_SESSION = select(_ROW.state, _ROW.session).where(_ROW.name == bindparam("name"))
_NODES = select(_ROW.node_id, _ROW.name).order_by(_ROW.name)

Holder = tuple[str, bytes]
"""A merchant's name and the certificate (DER) that it shows."""

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
        self._pulse = Pulse(engine, clock, period_s=HEARTBEAT_PERIOD_S)
        self._node_ids: dict[str, int] = {}

    @retried
    def invite(self, name: MerchantId, *, serial: str, expires: float) -> None:
        """Notes a fresh invitation; an unused older one ceases to be valid.

        Somebody who was revoked, or whose certificate has expired, may be invited again; it must
        then show the ledger key that it had.

        Raises:
            ConflictError: the merchant is a member.
        """
        with writing(self._engine) as session:
            row = session.scalar(_named(name).with_for_update())
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

    @retried
    def join(self, name: str, joining: Joining) -> None:
        """Makes the invited merchant a member, once.

        Raises:
            UnauthorisedError: another request used the invitation in the meantime.
        """
        # One conditional statement: of two joins at the same moment, one wins.
        invited = (MerchantRow.name == name, MerchantRow.state == "invited")
        statement = update(MerchantRow).where(*invited).values(state="member", **joining.__dict__)
        with writing(self._engine) as session:
            if session.scalar(statement.returning(MerchantRow.node_id)) is None:
                raise UnauthorisedError(
                    "this invitation was used already; ask the operator for a new one"
                )
            note_membership(session, session.scalars(_named(name)).one(), "joined")

    @retried
    def renew(self, name: str, certificate_der: bytes, expires: float) -> None:
        """Replaces a member's certificate; the older one stays until a session has the new one.

        The reply that carries the new certificate may be lost, and must not lock the member out.
        """
        with writing(self._engine) as session:
            row = self._member(session, name)
            # One that is still held as previous is the one in use: the present one never arrived.
            row.previous_certificate_der = row.previous_certificate_der or row.certificate_der
            row.certificate_der, row.certificate_expires = certificate_der, expires
            note_membership(session, row, "renewed")

    @retried
    def revoke(self, name: str) -> None:
        """Ends a membership at once.

        Raises:
            NotFoundError: there is no such merchant.
        """
        with writing(self._engine) as session:
            row = session.scalar(_named(name).with_for_update())
            if row is None:
                raise NotFoundError(f"there is no merchant {name!r}; see 'hansa-server merchants'")
            row.state = "revoked"
            note_membership(session, row, "revoked")

    def check_member(self, name: str, certificate_der: bytes) -> None:
        """Lets only the present certificate of a present member pass; asked on every call.

        After a renewal the previous one passes too, until a session was opened with the new one.

        Raises:
            UnauthorisedError: revoked, unknown, or another certificate was issued since.
        """
        holder = (name, certificate_der)
        if (objection := self.objections([holder]).get(holder)) is not None:
            raise UnauthorisedError(objection)

    def objections(self, holders: Collection[Holder]) -> dict[Holder, str]:
        """Those who are no members (any more), each with the sentence why; one query for all."""
        names = {"names": list({name for name, _ in holders})}
        with self._engine.connect() as connection:
            found = connection.execute(_STANDING, names).all()
        members = {name: valid for name, state, *valid in found if state == "member"}
        refused: dict[Holder, str] = {}
        for name, certificate in holders:
            if name not in members:
                refused[name, certificate] = f"merchant {name!r} is not a member of this federation"
            elif certificate not in members[name]:
                refused[name, certificate] = "this certificate was replaced by a newer one"
        return refused

    @retried
    def retire_previous(self, name: str, used_der: bytes) -> None:
        """Ends the previous certificate's validity when a session is opened with the present one.

        Not at its first use in any call: a session that began with the previous one would be cut
        off from its work by the client's other connection, which fetches releases.
        """
        used = (MerchantRow.name == name, MerchantRow.certificate_der == used_der)
        waiting = MerchantRow.previous_certificate_der.is_not(None)
        with writing(self._engine) as session:
            session.execute(
                update(MerchantRow).where(*used, waiting).values(previous_certificate_der=None)
            )

    @retried
    def open_session(self, name: str, software: str) -> int:
        """A new session number; it fences off all older ones."""
        statement = update(MerchantRow).where(
            MerchantRow.name == name, MerchantRow.state == "member"
        )
        # Counted by the database: of two clients at the same moment, each gets a number of its own.
        opened = statement.values(
            session=MerchantRow.session + 1, software=software[:64], last_seen=self._clock()
        )
        with writing(self._engine) as session:
            number: int | None = session.scalar(opened.returning(MerchantRow.session))
        if number is None:
            raise UnauthorisedError(f"merchant {name!r} is not a member of this federation")
        return number

    def heartbeat(self, name: str, number: int) -> bool:
        """Notes that the client lives; false when a newer session took over.

        Raises:
            UnauthorisedError: the merchant is not a member (any more).
        """
        state, session = self._session(name)
        if state != "member":
            raise UnauthorisedError(f"merchant {name!r} is not a member of this federation")
        if session != number:
            return False
        self._pulse.beat(name)
        return True

    def holds_session(self, name: str, number: int) -> bool:
        """Whether this is the merchant's newest session."""
        return self._session(name)[1] == number

    def _session(self, name: str) -> tuple[str, int | None]:
        """A merchant's state and newest session; asked with almost every call."""
        with self._engine.connect() as connection:
            row = connection.execute(_SESSION, {"name": name}).one_or_none()
        return ("", None) if row is None else (row.state, row.session)

    @retried
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
        with writing(self._engine) as session:
            self._member(session, merchant).serving_version = version

    def ledger_key(self, name: str) -> bytes | None:
        """The public key (Ed25519, 32 bytes) of the merchant's ledger; None: it showed none."""
        query = select(MerchantRow.ledger_public_key).where(MerchantRow.name == name)
        with Session(self._engine) as session:
            return session.scalar(query)

    def everyone(self) -> Sequence[MerchantRow]:
        """All merchants by name."""
        with Session(self._engine) as session:
            return session.scalars(select(MerchantRow).order_by(MerchantRow.name)).all()

    def online(self) -> dict[int, MerchantId]:
        """Node ids and names of members whose heartbeat is fresh."""
        return {row.node_id: MerchantId(row.name) for row in self.everyone() if self.is_online(row)}

    def is_online(self, row: MerchantRow) -> bool:
        """Whether a heartbeat came within the last three periods."""
        last_seen = max(row.last_seen, self._pulse.last(row.name))
        return row.state == "member" and last_seen >= self._clock() - _ONLINE_FOR_S

    def names(self) -> dict[int, MerchantId]:
        """Node ids and names of all merchants."""
        with self._engine.connect() as connection:
            rows = connection.execute(_NODES).all()
        return {node_id: MerchantId(name) for node_id, name in rows}

    def node_id(self, name: str) -> int:
        """A merchant's node id, which never changes; 0 where there is no such merchant."""
        if name not in self._node_ids:
            found = {str(merchant): node_id for node_id, merchant in self.names().items()}
            self._node_ids |= found
        return self._node_ids.get(name, 0)

    def _find(self, name: str) -> MerchantRow | None:
        with Session(self._engine) as session:
            return session.scalar(_named(name))

    def _member(self, session: Session, name: str) -> MerchantRow:
        """The member's row, which nobody else changes until the session commits."""
        row = session.scalar(_named(name).with_for_update())
        if row is None or row.state != "member":
            raise UnauthorisedError(f"merchant {name!r} is not a member of this federation")
        return row


def _named(name: str) -> Select[MerchantRow]:
    return select(MerchantRow).where(MerchantRow.name == name)
