"""The operator's settings, written once by ``hansa-server init`` and read by all other commands."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.endpoints import ADDRESS_PATTERN, endpoints_of
from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError
from hansa.core.object_ref import ObjectRef
from hansa.core.storage import write_atomically

_FILE = "server.json"


class ServerSettings(BaseModel):
    """What the server needs to know about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    federation: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "hansa"
    address: Annotated[str, Field(pattern=ADDRESS_PATTERN)]
    """Host and port at which merchants reach the server, or several servers in gRPC's notation."""
    listen: str = "0.0.0.0"  # noqa: S104 - merchants come from outside; every call needs a certificate
    """Local interface to listen on."""
    listen_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Port to listen on; None: the (first) port of ``address``."""
    base_models: dict[str, Path]
    """Name in plans -> local Hugging Face folder."""
    public_catalogue: Path | None = None
    """CSV of public item texts: the basis of the tower, and what releases are checked on."""
    database_url: str | None = Field(None, pattern=r"^postgresql(\+psycopg)?://", repr=False)
    """PostgreSQL database that several servers may share; None: SQLite in the state folder."""
    blobs_url: str | None = Field(None, pattern=r"^[a-z][a-z0-9+-]*://.", repr=False)
    """Where fsspec keeps the blobs, such as s3://bucket/prefix; None: in the state folder alone."""
    blobs_cache_bytes: Annotated[int, Field(ge=0)] = 20 << 30
    """With ``blobs_url``, about so much of it is also kept in the state folder; what the rounds of
    the last day read in place may exceed it."""
    run_lease_s: Annotated[float, Field(ge=1.0, le=3600.0)] = 15.0
    """After so many seconds of silence another server takes a run over."""
    client_certificate_days: Annotated[float, Field(gt=0, le=397)] = 30.0
    """Life of a merchant's certificate; its client renews it in the last third. Whoever is away for
    longer than two thirds of it needs a new invitation."""
    server_certificate_days: Annotated[float, Field(gt=0, le=397)] = 90.0
    """Life of the server's own certificate; the server renews it in the last third."""
    operator_certificate_days: Annotated[float, Field(gt=0, le=397)] = 397.0
    """Life of the certificate with which the operator's commands call."""
    reflection: bool = False
    """Whether gRPC reflection is offered."""
    empirical_audit_limit_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 0.0
    """Seconds that the attack on a plan's training code may take before its first release; 0: it is
    not run, and the privacy statement says so."""
    allowed_apps: tuple[ObjectRef, ...] = ()
    """Foreign strategies and Flower apps, as ``module:object``, that plans may name."""

    @staticmethod
    def checked(**fields: object) -> "ServerSettings":
        """The settings of these values.

        Raises:
            InvalidInputError: one is out of bounds; the sentence names it.
        """
        try:
            return ServerSettings.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidInputError(f"{where}: {first['msg']}; mend this value") from error

    @property
    def port(self) -> int:
        """The port to listen on."""
        return self.listen_port or int(endpoints_of(self.address)[0].rpartition(":")[2])

    @property
    def local_address(self) -> str:
        """Where the operator's commands on the server's own machine reach it."""
        host = "127.0.0.1" if self.listen in ("0.0.0.0", "::") else self.listen  # noqa: S104
        return f"{host}:{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names or IP addresses that merchants use."""
        return tuple(
            endpoint.rpartition(":")[0].strip("[]") for endpoint in endpoints_of(self.address)
        )


class StateFolder:
    """Where the operator's state lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.authority = path / "authority"
        self.releases = path / "releases"
        self.release_keys = path / "release-keys"
        self.offline_keys = path / "offline"
        self.database = path / "hansa.db"
        self.blobs = path / "blobs"
        self.uploads = path / "uploads"
        self.work = path / "work"
        self.cache = path / "cache"
        self.terms = path / "terms.json"

    def is_initialised(self) -> bool:
        """Whether there is a server's state."""
        return (self.path / _FILE).exists()

    def refuse_if_initialised(self) -> None:
        """Guards an existing server.

        Raises:
            ConflictError: there is a server's state already.
        """
        if self.is_initialised():
            raise ConflictError(
                f"{self.path} already holds a server's state; choose another folder with --state"
            )

    def write(self, settings: ServerSettings) -> None:
        """Writes the settings of a new server; URLs may hold a password."""
        secret = settings.database_url is not None or settings.blobs_url is not None
        data = canonical_json(settings.model_dump(mode="json"))
        write_atomically(self.path / _FILE, data, mode=0o600 if secret else 0o644)

    def settings(self) -> ServerSettings:
        """The settings.

        Raises:
            NotFoundError: nothing was initialised here.
            InvalidInputError: the file was damaged.
        """
        path = self.path / _FILE
        if not path.exists():
            raise NotFoundError(
                f"there is no server in {self.path}; run 'hansa-server init' first or name --state"
            )
        try:
            return ServerSettings.model_validate(parse_json(path.read_bytes(), str(path)))
        except ValidationError as error:
            raise InvalidInputError(f"{path} is damaged: {error.errors()[0]['msg']}") from error
