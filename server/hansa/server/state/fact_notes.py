"""Facts for the transparency log that are written down with the change that they state.

Where a change overwrites a row, nobody could read later what it was; so a note is left in the same
transaction, and the log's scribe takes it from there.
"""

import hashlib
from typing import Literal

from sqlalchemy.orm import Session

from hansa.core.transparency.leaves import KnownLeaf, MemberLeaf
from hansa.server.state.tables import LogNoteRow, MerchantRow

Change = Literal["joined", "renewed", "revoked", "left"]


def note_fact(session: Session, leaf: KnownLeaf) -> None:
    """Has a fact logged that becomes true with this transaction; stating it twice is harmless."""
    session.add(LogNoteRow(body=leaf.to_bytes().decode()))


def note_membership(session: Session, row: MerchantRow, change: Change) -> None:
    """Has a membership's change logged; nobody was a member who never had a certificate."""
    fact = member_fact(row, change)
    if fact is not None:
        note_fact(session, fact)


def member_fact(row: MerchantRow, change: Change) -> MemberLeaf | None:
    """What happened to a membership; None where there never was a certificate."""
    if row.certificate_der is None:
        return None
    key = row.ledger_public_key
    return MemberLeaf(
        merchant=row.name,
        change=change,
        certificate_sha256=hashlib.sha256(row.certificate_der).hexdigest(),
        ledger_key=None if key is None else key.hex(),
    )
