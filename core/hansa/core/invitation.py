"""The token by which a merchant joins: one line that pins the server and proves the invitation.

It holds the server's address, the federation's CA certificate (so that no other server can answer),
and a short-lived certificate with its key that is good for one ``Join``. The merchant's own key is
made at the merchant.
"""

import base64
import binascii
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.endpoints import ADDRESS_PATTERN
from hansa.core.errors import InvalidInputError

_PREFIX = "hansa1."
_MAX_LENGTH = 8192


class Invitation(BaseModel):
    """What a token says; certificates and the key are DER or PEM text in base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    merchant: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    address: Annotated[str, Field(pattern=ADDRESS_PATTERN)]
    authority_pem: str
    certificate_pem: str
    key_pem: str = Field(repr=False)

    def to_token(self) -> str:
        """The one line to hand over; it is a secret until it is used."""
        body = base64.urlsafe_b64encode(canonical_json(self.model_dump()))
        return _PREFIX + body.decode("ascii").rstrip("=")

    @staticmethod
    def from_token(token: str) -> "Invitation":
        """What a token says.

        Raises:
            InvalidInputError: it is not a token of this version, or was cut off.
        """
        text = token.strip()
        if not text.startswith(_PREFIX) or len(text) > _MAX_LENGTH:
            raise InvalidInputError(
                "this is not a Hansa token: copy the whole line that begins with 'hansa1.'"
            )
        body = text.removeprefix(_PREFIX)
        try:
            data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
            return Invitation.model_validate(parse_json(data, "the token"))
        except (binascii.Error, ValidationError, InvalidInputError) as error:
            raise InvalidInputError(
                "the token is damaged or cut off: copy the whole line again"
            ) from error
