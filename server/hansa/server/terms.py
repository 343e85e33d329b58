"""The operator's offer of terms to all merchants: signed, numbered, in one file.

It is an offer and nothing more: each client shows it to its merchant, and goes on under the terms
that the merchant accepted before.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hansa.core.contract import MAX_NOTE_CHARACTERS, TERMS_DOMAIN, Contract, Offer, parse_offer
from hansa.core.errors import InvalidInputError
from hansa.core.signing import key_id_of, sign
from hansa.core.storage import write_atomically


class OfferedTerms:
    """The offer as it lies on the disk; read anew each time, for it may change while one runs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def signed(self) -> bytes:
        """The signed offer; empty where there is none."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""

    def read(self, key: Ed25519PrivateKey) -> Offer | None:
        """The offer, if there is one.

        Raises:
            InvalidInputError: the file was edited into something else.
            SignatureError: it was not signed by this key.
        """
        data = self.signed()
        return parse_offer(data, key_id=key_id_of(key)) if data else None

    def set(self, contract: Contract, key: Ed25519PrivateKey, note: str = "") -> Offer:
        """Replaces the offer by one with the next number.

        Raises:
            InvalidInputError: the note is too long, or the present file was edited.
            SignatureError: the present file was not signed by this key.
        """
        if len(note) > MAX_NOTE_CHARACTERS:
            raise InvalidInputError(f"a note has at most {MAX_NOTE_CHARACTERS} characters")
        last = self.read(key)
        number = 1 if last is None else last.number + 1
        offer = Offer(number=number, contract=contract, note=note)
        signed = sign(offer.model_dump(mode="json"), key, domain=TERMS_DOMAIN)
        write_atomically(self._path, signed.to_bytes())
        return offer
