"""Terms that the operator offers, and what of the merchant's own goes into a contract.

An offer lies on the shelf until the merchant decides. Nothing that the server sends puts terms into
force: only ``hansa-client contract accept`` does, as a signed entry of the ledger.
"""

import logging
from pathlib import Path
from typing import Final

from hansa.client.ledger_store import read_ledger
from hansa.client.site import Site
from hansa.core.code_identity import installed_code
from hansa.core.contract import Contract, Offer, parse_offer
from hansa.core.errors import HansaError, InvalidInputError, NotFoundError
from hansa.core.storage import write_atomically

MAX_OFFER_BYTES: Final = 64 << 10

_log = logging.getLogger(__name__)


class OfferShelf:
    """The newest offer that this site has seen, in one file."""

    def __init__(self, path: Path, plan_public_key: str) -> None:
        """Trusts offers that this key signed, the one that was pinned at joining."""
        self._path = path
        self._key = plan_public_key

    def note(self, signed: bytes) -> None:
        """Keeps an offer that is newer than the one that is here; any other is left aside."""
        if not signed:
            return
        try:
            offer, last = self._parsed(signed), self.read()
        except HansaError as error:
            _log.warning("the server offers terms that cannot be read: %s", error)
            return
        if last is not None and offer.number < last.number:
            _log.warning("the server offers old terms (%s); they are ignored", offer.number)
        if last is None or offer.number > last.number:
            write_atomically(self._path, signed)
            _log.warning(
                "the operator offers new terms (%s); see 'hansa-client contract diff'; yours hold "
                "until you accept",
                offer.number,
            )

    def read(self) -> Offer | None:
        """The offer, if there ever was one.

        Raises:
            InvalidInputError: the file was edited into something else.
            SignatureError: the operator did not sign it.
        """
        try:
            return self._parsed(self._path.read_bytes())
        except FileNotFoundError:
            return None

    def _parsed(self, signed: bytes) -> Offer:
        if len(signed) > MAX_OFFER_BYTES:
            raise InvalidInputError(f"the offered terms have more than {MAX_OFFER_BYTES} bytes")
        return parse_offer(signed, key_id=self._key)


def with_this_code(contract: Contract) -> Contract:
    """The contract, bound to this installation unless its author said something of code."""
    if "code" in contract.model_fields_set:
        return contract
    return contract.model_copy(update={"code": (installed_code(),)})


def takes_releases(site: Site) -> bool:
    """Whether the terms let releases of the federation be fetched.

    Raises:
        LedgerError: the book is broken.
    """
    try:
        return read_ledger(site.ledger).contract.releases
    except NotFoundError:
        return True
