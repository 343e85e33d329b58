"""Ed25519 signatures over canonical JSON: the plan, the ledger's entries, the audit pack.

A key is named by its public half in hexadecimal, so that a signature can be checked from the file
alone; whether that key is to be trusted is the caller's question. Every use has its own domain, so
that a signature made for one purpose never serves another.

References:
    RFC 8032, Edwards-curve digital signature algorithm.
    RFC 8785, JSON Canonicalization Scheme.
"""

from typing import Annotated, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.errors import InvalidInputError, SignatureError

SEED_BYTES: Final = 32

KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""An Ed25519 public key, 32 bytes in lower-case hexadecimal."""

SignatureHex = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
"""An Ed25519 signature, 64 bytes in lower-case hexadecimal."""


class Signed(BaseModel):
    """A JSON object with the signature of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    payload: dict[str, Any]
    key_id: KeyId
    signature: SignatureHex

    @classmethod
    def parse(cls, data: bytes, what: str) -> "Signed":
        """Signed content from bytes; ``what`` names them in the error. Nothing is verified yet.

        Raises:
            InvalidInputError: the bytes are not such content.
        """
        try:
            return cls.model_validate(parse_json(data, what))
        except ValidationError as error:
            raise InvalidInputError(
                f"{what} is not signed JSON: {error.errors()[0]['msg']}"
            ) from error

    def to_bytes(self) -> bytes:
        """The canonical JSON form."""
        return canonical_json(self.model_dump(mode="json"))

    def verify(self, domain: str, *, key_id: str | None = None) -> dict[str, Any]:
        """The payload, once its signature holds.

        Args:
            domain: the purpose for which it must have been signed.
            key_id: the key that must have signed; absent, the key that the content itself names.

        Raises:
            SignatureError: another key signed, or the payload or signature was changed.
        """
        if key_id is not None and key_id != self.key_id:
            raise SignatureError(
                f"the {domain} is signed by key {self.key_id[:12]}, not by {key_id[:12]}; "
                "do not use it"
            )
        message = canonical_json(self.payload)
        if not is_signed(message, signature=self.signature, key_id=self.key_id, domain=domain):
            raise SignatureError(f"the signature on the {domain} does not hold; do not use it")
        return self.payload


def signing_key(seed: bytes) -> Ed25519PrivateKey:
    """The key of 32 secret bytes, which must come from a cryptographic source.

    Raises:
        InvalidInputError: the seed has another length.
    """
    if len(seed) != SEED_BYTES:
        raise InvalidInputError("an Ed25519 key is made of 32 secret bytes")
    return Ed25519PrivateKey.from_private_bytes(seed)


def key_id_of(key: Ed25519PrivateKey) -> KeyId:
    """The public half, which names the key."""
    return key.public_key().public_bytes_raw().hex()


def sign_bytes(message: bytes, key: Ed25519PrivateKey, *, domain: str) -> SignatureHex:
    """The signature of a message for one purpose."""
    return key.sign(_framed(message, domain)).hex()


def is_signed(message: bytes, *, signature: str, key_id: str, domain: str) -> bool:
    """Whether the key signed this very message for this purpose; malformed input never holds."""
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_id))
        public.verify(bytes.fromhex(signature), _framed(message, domain))
    except (InvalidSignature, ValueError):
        return False
    return True


def sign(payload: dict[str, Any], key: Ed25519PrivateKey, *, domain: str) -> Signed:
    """The payload with its signature for one purpose.

    Raises:
        InvalidInputError: the payload is not JSON.
    """
    signature = sign_bytes(canonical_json(payload), key, domain=domain)
    return Signed(payload=payload, key_id=key_id_of(key), signature=signature)


def _framed(message: bytes, domain: str) -> bytes:
    return f"hansa {domain} v1\n".encode() + message
