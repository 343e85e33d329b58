"""A key with its certificate in a folder: ``NAME.key.pem`` (mode 0600) and ``NAME.pem``."""

from pathlib import Path

from cryptography import x509

from hansa.core.errors import InvalidInputError
from hansa.core.identity import Credentials, load_key
from hansa.core.storage import write_atomically


def read_credentials(folder: Path, name: str) -> Credentials:
    """The pair of files.

    Raises:
        InvalidInputError: one is missing or damaged.
    """
    try:
        key = load_key((folder / f"{name}.key.pem").read_bytes())
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"cannot read the credentials {name!r} in {folder}: {error}"
        ) from error
    return Credentials(key=key, certificate=certificate)


def write_credentials(folder: Path, name: str, credentials: Credentials) -> None:
    """Writes the pair of files."""
    write_atomically(folder / f"{name}.key.pem", credentials.key_pem, mode=0o600)
    write_atomically(folder / f"{name}.pem", credentials.certificate_pem)
