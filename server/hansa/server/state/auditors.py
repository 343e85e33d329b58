"""Who may read the transparency log and the packs without being a member."""

import hashlib
from collections.abc import Callable

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from hansa.core.errors import NotFoundError, UnauthorisedError
from hansa.core.transparency.leaves import AuditorLeaf
from hansa.server.state.database import retried, writing
from hansa.server.state.fact_notes import note_fact
from hansa.server.state.tables import AuditorRow

Clock = Callable[[], float]


class Auditors:
    """The auditors' present certificates; each name has one at a time."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    @retried
    def admit(self, name: str, certificate_der: bytes, expires: float) -> None:
        """Lets a certificate read; an earlier one of the same name ceases to count."""
        sha = hashlib.sha256(certificate_der).hexdigest()
        with writing(self._engine) as session:
            session.merge(AuditorRow(name=name, certificate_sha256=sha, expires=expires))
            note_fact(session, AuditorLeaf(name=name, change="admitted", certificate_sha256=sha))

    @retried
    def dismiss(self, name: str) -> None:
        """Ends an auditor's reading at once.

        Raises:
            NotFoundError: there is none of that name.
        """
        with writing(self._engine) as session:
            row = session.get(AuditorRow, name, with_for_update=True)
            if row is None:
                raise NotFoundError(f"there is no auditor {name!r}")
            sha = row.certificate_sha256
            note_fact(session, AuditorLeaf(name=name, change="dismissed", certificate_sha256=sha))
            session.delete(row)

    def check(self, name: str, certificate_der: bytes) -> None:
        """Lets only the present certificate of an auditor pass; asked on every call.

        Raises:
            UnauthorisedError: dismissed, unknown, expired, or another certificate was issued since.
        """
        query = select(AuditorRow).where(AuditorRow.name == name)
        with Session(self._engine) as session:
            row = session.scalar(query)
        if row is None or row.certificate_sha256 != hashlib.sha256(certificate_der).hexdigest():
            raise UnauthorisedError(
                f"auditor {name!r} may not read here; ask the operator for a new certificate"
            )
        if row.expires < self._clock():
            raise UnauthorisedError("the certificate has expired; ask the operator for a new one")
