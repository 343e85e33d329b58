"""Leaving a federation: the notice, the call, and the receipt, checked before it is believed.

The receipt is on the disk before anything else happens, and outside of what may be wiped.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from hansa.client.channel import CALL_TIMEOUT_S, open_channel, translated
from hansa.client.ledger_store import read_key, read_ledger
from hansa.client.site import Site, SiteSettings
from hansa.client.witness import Witness
from hansa.core.canonical import sha256_hex
from hansa.core.errors import (
    ConflictError,
    HansaError,
    InvalidInputError,
    NotFoundError,
    SignatureError,
)
from hansa.core.privacy.ledger import Ledger
from hansa.core.receipt import (
    MAX_RECEIPT_BYTES,
    LedgerPlace,
    Notice,
    Receipt,
    Remedy,
    moment_of,
    read_receipt,
)
from hansa.core.signing import key_id_of
from hansa.core.storage import write_atomically
from hansa.core.transparency.checkpoint import Checkpoint, SignedCheckpoint
from hansa.protos.v1 import enrolment_pb2 as pb
from hansa.protos.v1 import enrolment_pb2_grpc as rpc

_LEAVE_TIMEOUT_S = 4 * CALL_TIMEOUT_S
"""The server reads its whole log for a receipt."""


@dataclass(frozen=True, kw_only=True)
class Departure:
    """A receipt that was checked, and what the merchant should know of it."""

    receipt: Receipt
    remarks: tuple[str, ...]


def default_receipt(site: Site, merchant: str) -> Path:
    """Next to the site's folder, never within it."""
    return site.path.resolve().parent / f"hansa-receipt-{merchant}.json"


def default_notice(site: Site, merchant: str) -> Path:
    """Next to the site's folder."""
    return site.path.resolve().parent / f"hansa-leave-{merchant}.json"


def leave(site: Site, remedy: Remedy, path: Path, now: dt.datetime) -> Departure:
    """Ends the membership, or goes on where an earlier attempt was interrupted.

    Args:
        site: nobody else may work on it.
        remedy: what is to be done about releases with this merchant's updates.
        path: where the receipt is kept; a receipt of this membership that lies there already is
            taken, and nobody is asked.
        now: the present.

    Raises:
        ConflictError: another file lies there, or an earlier attempt chose another remedy.
        NotFoundError: the server is too old for it.
        SignatureError: the receipt is not the operator's, or not about this site; it is kept
            beside ``path`` as evidence, and nothing was wiped.
        TransportError: the server cannot be reached.
    """
    settings = site.settings()
    if path.exists():
        return _kept(site, settings, path)
    data = _ask(site, settings, remedy, now)
    try:
        departure = check(site, settings, data)
    except HansaError:
        write_atomically(path.with_name(f"{path.stem}.rejected{path.suffix}"), data)
        raise
    write_atomically(path, data)
    _check_remedy(departure.receipt, remedy, path)
    return departure


def write_notice(site: Site, remedy: Remedy, path: Path, now: dt.datetime) -> None:
    """Writes a signed notice for the operator, connecting to nobody.

    Raises:
        HansaError: the site's ledger or its key cannot be read.
    """
    if path.exists():
        raise ConflictError(f"{path} exists already; hand it to the operator, or name another file")
    write_atomically(path, _notice(site, site.settings().merchant, remedy, now))


def check(site: Site, settings: SiteSettings, data: bytes) -> Departure:
    """A receipt, once it is known to be the operator's and about this site.

    Raises:
        SignatureError: it is not.
        InvalidInputError: it is no receipt.
        TransparencyError: its checkpoint is not the operator's.
    """
    receipt = read_receipt(data, key_id=settings.plan_public_key)
    if receipt.merchant != settings.merchant:
        raise SignatureError(f"the receipt is for {receipt.merchant}, not for {settings.merchant}")
    point = receipt.log(key_id=settings.plan_public_key)
    receipt.statement()
    remarks = _compare_log(site, point)
    own = _certificate_sha256(site)
    if own is None:
        remarks.append("the certificate here cannot be read: the receipt was not compared with it")
    elif own not in receipt.certificates:
        raise SignatureError("the receipt is about another membership than that of this site")
    remarks.extend(_compare_ledger(site, receipt))
    return Departure(receipt=receipt, remarks=tuple(remarks))


def _compare_log(site: Site, point: Checkpoint) -> list[str]:
    """A log that was cut or forked is no reason to stay; it is told, for an auditor."""
    try:
        note = Witness.of(site).memory.seen().note
        seen = None if note is None else SignedCheckpoint.parse(note.encode(), "it").checkpoint
    except (HansaError, OSError):
        return [
            "what this site saw of the log cannot be read: the receipt was not compared with it"
        ]
    if seen is None or seen.size < point.size:
        return []
    if (seen.size, seen.root) == (point.size, point.root):
        return []
    return [
        f"ALARM: the receipt's log ({point}) does not go on from what this site saw ({seen}); hand "
        "both to an auditor: 'hansa-client checkpoints export'"
    ]


def _compare_ledger(site: Site, receipt: Receipt) -> list[str]:
    try:
        ledger = read_ledger(site.ledger)
    except (HansaError, OSError):
        return ["the ledger here cannot be read: the receipt was not compared with it"]
    if receipt.ledger_key not in (None, ledger.opening.public_key):
        raise SignatureError("the receipt names another ledger than that of this site")
    if receipt.spent is None:
        return ["the operator holds no entry of this site's ledger"]
    return _compare_head(ledger, receipt.spent.place)


def _compare_head(ledger: Ledger, place: LedgerPlace) -> list[str]:
    entries = ledger.entries
    if place.entries > len(entries) or entries[place.entries - 1].hash != place.head:
        raise SignatureError(
            f"the receipt counts {place.entries} ledger entries that are not those of this site"
        )
    later = len(entries) - place.entries
    return [f"the operator never got the last {later} entries of this ledger"] if later else []


def _check_remedy(receipt: Receipt, remedy: Remedy, path: Path) -> None:
    """An earlier choice counts; whoever asks for another one should know before a wipe."""
    if receipt.remedy != remedy:
        raise ConflictError(
            f"this site has left before, with the remedy {receipt.remedy}; its receipt is {path}: "
            "run the command again to go on with it"
        )


def _kept(site: Site, settings: SiteSettings, path: Path) -> Departure:
    if path.stat().st_size > MAX_RECEIPT_BYTES:
        raise ConflictError(f"{path} is no receipt; name another file with --receipt")
    try:
        return check(site, settings, path.read_bytes())
    except HansaError as error:
        raise ConflictError(
            f"{path} is no receipt of this membership ({error}); name another file with --receipt"
        ) from error


def _ask(site: Site, settings: SiteSettings, remedy: Remedy, now: dt.datetime) -> bytes:
    own = site.credentials()
    try:
        notice = _notice(site, settings.merchant, remedy, now)
    except (HansaError, OSError):
        notice = b""  # a broken ledger keeps nobody from leaving
    channel = open_channel(
        settings.server_address,
        authority_pem=site.authority_pem(),
        key_pem=own.key_pem,
        certificate_pem=own.certificate_pem,
    )
    request = pb.LeaveRequest(remedy=remedy, notice=notice)
    with channel, translated(settings.server_address, own.certificate):
        try:
            return bytes(
                rpc.EnrolmentStub(channel).Leave(request, timeout=_LEAVE_TIMEOUT_S).receipt
            )
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise NotFoundError(
                    "this server is of a version that gives no receipts: ask the operator to run "
                    f"'hansa-server revoke {settings.merchant}', or to update and ask again; "
                    "nothing was changed"
                ) from error
            raise


def _notice(site: Site, merchant: str, remedy: Remedy, now: dt.datetime) -> bytes:
    ledger, key = read_ledger(site.ledger), read_key(site.ledger)
    if key_id_of(key) != ledger.opening.public_key:
        raise InvalidInputError("the ledger's key is not that of the ledger; restore the backup")
    entries = ledger.entries
    notice = Notice(
        merchant=merchant,
        remedy=remedy,
        time=moment_of(now),
        certificate_sha256=_certificate_sha256(site),
        ledger=LedgerPlace(entries=len(entries), head=entries[-1].hash),
    )
    return notice.signed(key)


def _certificate_sha256(site: Site) -> str | None:
    try:
        return sha256_hex(site.credentials().certificate.public_bytes(Encoding.DER))
    except (HansaError, OSError):
        return None
