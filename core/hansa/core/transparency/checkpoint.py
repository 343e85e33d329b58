"""Checkpoints: the log's size and root at one moment, signed by the key that signs plans.

The form is a note that people can read, store and hand on as a text of five lines:

    hansa/log/FEDERATION
    SIZE
    ROOT, in base64
    time 2026-11-24T01:00:00Z
    (an empty line)
    - KEY SIGNATURE, both in hexadecimal

The signature covers the first four lines with their line ends. There is one spelling for each
checkpoint: whatever differs by a byte is refused.

References:
    C2SP tlog-checkpoint and signed-note, whose layout this follows; the key is named in full, and
    the signature has the domain of Hansa's other ones.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field

from hansa.core.errors import InvalidInputError, TransparencyError
from hansa.core.signing import is_signed, key_id_of, sign_bytes
from hansa.core.transparency.merkle import HASH_BYTES, MAX_SIZE

DOMAIN: Final = "log checkpoint"
MAX_NOTE_BYTES: Final = 1024

_NOTE = re.compile(
    rb"(?P<text>(?P<origin>hansa/log/[a-z0-9][a-z0-9-]{0,62})\n"
    rb"(?P<size>0|[1-9][0-9]{0,15})\n"
    rb"(?P<root>[A-Za-z0-9+/]{43}=)\n"
    rb"time (?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)\n)\n"
    rb"- (?P<key>[0-9a-f]{64}) (?P<signature>[0-9a-f]{128})\n"
)
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def origin_of(federation: str) -> str:
    """How checkpoints name the log of a federation."""
    return f"hansa/log/{federation}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What the log was at one moment."""

    origin: str
    size: int
    """How many entries it had."""
    root: bytes
    """Root of the Merkle tree over them, 32 bytes."""
    time: datetime
    """When it was signed, in UTC; a note holds it to the second."""

    def signed(self, key: Ed25519PrivateKey) -> bytes:
        """The note.

        Raises:
            InvalidInputError: a part cannot be written as one.
        """
        text = (
            f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"
            f"time {self.time.astimezone(UTC).strftime(_TIME)}\n"
        ).encode()
        signature = sign_bytes(text, key, domain=DOMAIN)
        note = text + f"\n- {key_id_of(key)} {signature}\n".encode()
        SignedCheckpoint.parse(note, "the checkpoint")
        return note

    def __str__(self) -> str:
        """For people: size, root and time."""
        when = self.time.astimezone(UTC).strftime(_TIME)
        return f"{self.size} entries, root {self.root.hex()[:12]}, {when}"


@dataclass(frozen=True, kw_only=True)
class SignedCheckpoint:
    """A note that was read; nothing is believed before ``verify``."""

    note: bytes
    text: bytes
    checkpoint: Checkpoint
    key_id: str
    signature: str

    @staticmethod
    def parse(note: bytes, what: str) -> "SignedCheckpoint":
        """A checkpoint's note; ``what`` names it in the error.

        Raises:
            InvalidInputError: the bytes are no such note, to the byte.
        """
        match = None if len(note) > MAX_NOTE_BYTES else _NOTE.fullmatch(note)
        if match is None:
            raise InvalidInputError(f"{what} is not a checkpoint of a log; fetch it again")
        return SignedCheckpoint(
            note=note,
            text=match["text"],
            checkpoint=_checkpoint(match, what),
            key_id=match["key"].decode(),
            signature=match["signature"].decode(),
        )

    def verify(self, *, key_id: str | None = None) -> Checkpoint:
        """The checkpoint, once its signature holds.

        Args:
            key_id: the key that must have signed; absent, the key that the note itself names.

        Raises:
            TransparencyError: another key signed, or the note was changed.
        """
        if key_id is not None and key_id != self.key_id:
            raise TransparencyError(
                f"the checkpoint is signed by key {self.key_id[:12]}, not by {key_id[:12]}"
            )
        if not is_signed(self.text, signature=self.signature, key_id=self.key_id, domain=DOMAIN):
            raise TransparencyError("the signature on the checkpoint does not hold")
        return self.checkpoint


def _checkpoint(match: "re.Match[bytes]", what: str) -> Checkpoint:
    try:
        root = base64.b64decode(match["root"], validate=True)
        time = datetime.strptime(match["time"].decode(), _TIME).replace(tzinfo=UTC)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(f"{what} is not a checkpoint of a log: {error}") from error
    size = int(match["size"])
    canonical = len(root) == HASH_BYTES and base64.b64encode(root) == match["root"]
    if not canonical or size > MAX_SIZE:
        raise InvalidInputError(f"{what} is not a checkpoint of a log: a number is out of bounds")
    return Checkpoint(origin=match["origin"].decode(), size=size, root=root, time=time)


class CheckpointBook(BaseModel):
    """The checkpoints that somebody witnessed, as a file to hand to an auditor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Annotated[str, Field(pattern=r"^hansa-checkpoints 1$")] = "hansa-checkpoints 1"
    witness: Annotated[str, Field(min_length=1, max_length=128)]
    """Who saw them: a merchant's name."""
    plan_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The operator's public key as the witness has pinned it."""
    notes: Annotated[
        tuple[Annotated[str, Field(max_length=MAX_NOTE_BYTES)], ...], Field(max_length=100_000)
    ]
    """The notes, oldest first."""
