"""An auditor's access to a server: a key made here, and the grant that the operator gave for it."""

from pathlib import Path
from typing import Annotated, Final

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.audit.copies import read_file
from hansa.core.canonical import canonical_json, parse_json
from hansa.core.endpoints import ADDRESS_PATTERN
from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError
from hansa.core.identity import (
    Credentials,
    Identity,
    Role,
    certificate_request,
    identity_of,
    key_pem,
    load_key,
    make_key,
)
from hansa.core.storage import write_atomically

GRANT: Final = "grant.json"
REQUEST: Final = "request.csr"
_KEY: Final = "auditor.key.pem"


class Grant(BaseModel):
    """What the operator hands to an auditor; nothing of it is secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Annotated[str, Field(pattern=r"^hansa-auditor 1$")] = "hansa-auditor 1"
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    address: Annotated[str, Field(pattern=ADDRESS_PATTERN)]
    authority_pem: Annotated[str, Field(max_length=20_000)]
    """The federation's CA certificate: no other server can answer."""
    certificate_pem: Annotated[str, Field(max_length=20_000)]
    plan_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The key that signs plans, packs and checkpoints; compare it with what merchants have."""

    @staticmethod
    def parse(data: bytes, what: str) -> "Grant":
        """A grant from a file; ``what`` names it in the error.

        Raises:
            InvalidInputError: it is none.
        """
        try:
            return Grant.model_validate(parse_json(data, what))
        except ValidationError as error:
            raise InvalidInputError(
                f"{what} is not an auditor's grant: {error.errors()[0]['msg']}"
            ) from error


class Access:
    """A folder with the auditor's key, its grant, and what was pulled with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def request(self, name: str) -> Path:
        """Makes a key, and the request that the operator is to certify; the key never leaves.

        Raises:
            ConflictError: there is a key already.
        """
        if (self.folder / _KEY).exists():
            raise ConflictError(f"{self.folder} holds an auditor's key already; choose another one")
        key = make_key()
        write_atomically(self.folder / _KEY, key_pem(key), mode=0o600)
        write_atomically(self.folder / REQUEST, certificate_request(key, name))
        return self.folder / REQUEST

    def accept(self, data: bytes, what: str) -> Grant:
        """Takes the operator's grant in; a newer one replaces it.

        Raises:
            InvalidInputError: it is none, or is for another key or another plan key.
        """
        grant = Grant.parse(data, what)
        credentials = self._credentials(grant)
        if not credentials.belong_together:
            raise InvalidInputError(f"{what} certifies another key than the one in {self.folder}")
        if identity_of(credentials.certificate) != Identity(role=Role.AUDITOR, name=grant.name):
            raise InvalidInputError(f"{what} is not for an auditor named {grant.name}")
        if (self.folder / GRANT).exists() and self.grant().plan_key != grant.plan_key:
            raise InvalidInputError(f"{what} names another plan key than before; ask why")
        write_atomically(self.folder / GRANT, canonical_json(grant.model_dump(mode="json")))
        return grant

    def grant(self) -> Grant:
        """The operator's grant.

        Raises:
            NotFoundError: there is none yet.
        """
        path = self.folder / GRANT
        if not path.exists():
            raise NotFoundError(
                f"there is no grant in {self.folder}; run 'hansa-audit request', have the operator "
                "admit you, and pass the grant with --grant"
            )
        return Grant.parse(read_file(path), str(path))

    def credentials(self) -> Credentials:
        """The auditor's key with its certificate.

        Raises:
            NotFoundError: there is no grant yet.
        """
        return self._credentials(self.grant())

    def _credentials(self, grant: Grant) -> Credentials:
        try:
            certificate = x509.load_pem_x509_certificate(grant.certificate_pem.encode())
        except ValueError as error:
            raise InvalidInputError("the grant's certificate is malformed") from error
        return Credentials(key=load_key(read_file(self.folder / _KEY)), certificate=certificate)
