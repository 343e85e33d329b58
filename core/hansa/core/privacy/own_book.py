"""Opening one's own ledger, however long: the chain and the head's signature.

Every byte of every entry but its signature goes into its hash, every hash into the next entry, and
the last hash is signed by the book's own key. So one signature at the end vouches for all that the
entries say, in their order, from the first on: whoever edits, drops, reorders or adds one needs the
key or a collision of SHA-256. What it does not vouch for is the older entries' signatures, which
say nothing that the chain does not: they are proof for others. A stranger's book is therefore
verified by ``verify_chain``, signature by signature, and so is this one by whoever receives it;
a signature that the disk has damaged is found there, and changes nothing that was spent.

Hashes are computed over the bytes as they lie, not over a form that is written anew: what was
hashed is then what was read.
"""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pydantic import TypeAdapter, ValidationError

from hansa.core.canonical import sha256_hex
from hansa.core.errors import LedgerError
from hansa.core.privacy.bodies import AnyBody, Body, Open
from hansa.core.privacy.entries import DOMAIN, GENESIS, Entry
from hansa.core.signing import is_signed

_LINE: Final = re.compile(
    rb'\{"body":(?P<body>\{.*\}),"hash":"(?P<hash>[0-9a-f]{64})"'
    rb',(?P<links>"position":(?P<position>0|[1-9][0-9]{0,15}),"previous":"(?P<previous>[0-9a-f]{64})")'
    rb',"signature":"(?P<signature>[0-9a-f]{128})"'
    rb',(?P<end>"time":"(?P<time>[0-9]{4}(?:-[0-9]{2}){2}T[0-9]{2}(?::[0-9]{2}){2}(?:\.[0-9]{6})?Z)"\})'
)
_BODY: Final[TypeAdapter[AnyBody]] = TypeAdapter(Body)


def read_own_book(data: bytes, *, public_key: str | None = None) -> list[Entry]:
    """The entries of one's own book, in order, each in its place and unchanged.

    Args:
        data: whole lines, one canonical entry each.
        public_key: the book's key, where the caller holds it; absent, the key that the book names.

    Raises:
        LedgerError: the book is broken; the sentence names the position and the reason.
    """
    if data and not data.endswith(b"\n"):
        raise LedgerError("the ledger ends within a line: it was cut off")
    entries: list[Entry] = []
    previous: str = GENESIS
    with _without_collection():
        for position, line in enumerate(data.split(b"\n")[:-1]):
            try:
                entry = _entry(line, position, previous)
            except LedgerError as error:
                raise LedgerError(f"ledger entry {position}: {error}") from error
            previous = entry.hash
            entries.append(entry)
    _check_ends(entries, public_key)
    return entries


def _entry(line: bytes, position: int, previous: str) -> Entry:
    match = _LINE.fullmatch(line)
    if match is None:
        raise LedgerError("the line is no entry in canonical form: it was edited or torn")
    hashed = b'{"body":%b,%b,%b' % (match["body"], match["links"], match["end"])
    if sha256_hex(hashed) != match["hash"].decode():
        raise LedgerError("its content does not have its hash: it was edited")
    if int(match["position"]) != position:
        raise LedgerError(
            f"position {int(match['position'])} stands here: entries were dropped, repeated or "
            "reordered"
        )
    if match["previous"].decode() != previous:
        raise LedgerError("it does not follow the entry before it: one of them was replaced")
    return Entry.model_construct(
        position=position,
        previous=previous,
        time=match["time"].decode(),
        body=_body(match["body"], position),
        hash=match["hash"].decode(),
        signature=match["signature"].decode(),
    )


def _body(data: bytes, position: int) -> AnyBody:
    try:
        body = _BODY.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise LedgerError(
            f"it is none that this software knows: {where}: {first['msg']}"
        ) from error
    if isinstance(body, Open) != (position == 0):
        reason = "the opening entry is missing" if position == 0 else "the book is opened again"
        raise LedgerError(reason)
    return body


def _check_ends(entries: list[Entry], public_key: str | None) -> None:
    """Whose book it is, and that this key signed the newest entry."""
    if not entries or not isinstance(opening := entries[0].body, Open):
        raise LedgerError("the ledger is empty: even its first entry was dropped")
    if public_key is not None and public_key != opening.public_key:
        raise LedgerError(
            f"ledger entry 0: the book is kept under key {opening.public_key[:12]}, "
            f"not under {public_key[:12]}"
        )
    for entry in {0: entries[0], len(entries) - 1: entries[-1]}.values():
        if not is_signed(
            entry.hash.encode(),
            signature=entry.signature,
            key_id=opening.public_key,
            domain=DOMAIN,
        ):
            raise LedgerError(
                f"ledger entry {entry.position}: it is not signed by the ledger's key"
            )


@contextmanager
def _without_collection() -> Iterator[None]:
    """Many objects are made and none become garbage: looking for some would take half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
