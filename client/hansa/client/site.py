"""A merchant's site: one folder that holds everything, and the settings within it."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.credentials import read_credentials
from hansa.core.endpoints import ADDRESS_PATTERN
from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.core.identity import Credentials
from hansa.core.storage import write_atomically

_FILE = "site.json"


class SiteSettings(BaseModel):
    """What a merchant decided when it joined; it may edit the file while the client is stopped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    merchant: str
    """The name under which the operator invited this merchant."""
    server_address: Annotated[str, Field(pattern=ADDRESS_PATTERN)]
    """Host and port of the operator's server, or several in gRPC's notation; the client connects
    to no other place, ever."""
    plan_public_key: str
    """Ed25519 key (64 hexadecimal digits) that must have signed every plan."""
    base_models: dict[str, Path]
    """Name in plans -> local Hugging Face folder."""
    serving_port: Annotated[int, Field(ge=0, le=65535)] = 8700
    """Port of the on-site search and recommendation service; 0 lets the system choose one."""
    serving_listen: str = "127.0.0.1"
    """Local interface of the on-site service."""
    update_period_s: Annotated[float, Field(ge=0.2, le=86_400.0)] = 60.0
    """How often the client looks for a new release."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """CPU threads for training and serving."""


class Site:
    """Where everything of the site lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity = path / "identity"
        self.ledger = path / "ledger"
        self.dataset = path / "dataset"
        self.outbox = path / "outbox"
        self.secure = path / "secure"
        self.residuals = path / "residuals"
        self.contexts = path / "contexts"
        self.releases = path / "releases"
        self.cache = path / "cache"
        self.applications = path / "applications"
        self.plans = path / "plans"
        self.log = path / "log"
        self.allowed_apps = path / "allowed-apps.json"
        self.app_states = path / "app-states"
        self.offered_terms = path / "offered-terms.json"
        self.halt = path / "stopped.json"
        self.pseudonym_key = path / "pseudonyms.key"

    def write(self, settings: SiteSettings) -> None:
        """Writes the settings of a site that has joined."""
        write_atomically(self.path / _FILE, canonical_json(settings.model_dump(mode="json")))

    def has_joined(self) -> bool:
        """Whether the site belongs to a federation."""
        return (self.path / _FILE).exists()

    def settings(self) -> SiteSettings:
        """The settings.

        Raises:
            NotFoundError: the site has not joined yet.
            InvalidInputError: the file was edited into something else.
        """
        path = self.path / _FILE
        if not path.exists():
            raise NotFoundError(
                f"the site {self.path} has not joined yet; run 'hansa-client join TOKEN' first"
            )
        try:
            return SiteSettings.model_validate(parse_json(path.read_bytes(), str(path)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidInputError(f"{path}: {where}: {first['msg']}; mend this field") from error

    def credentials(self) -> Credentials:
        """The merchant's key and certificate.

        Raises:
            InvalidInputError: a file is missing or damaged.
        """
        return read_credentials(self.identity, "merchant")

    def authority_pem(self) -> bytes:
        """The federation's CA certificate, pinned at joining."""
        return (self.identity / "authority.pem").read_bytes()

    def tuf_root(self) -> bytes:
        """The first trusted TUF root, pinned at joining."""
        return (self.identity / "root.json").read_bytes()
