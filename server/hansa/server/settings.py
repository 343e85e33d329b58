"""The operator's settings, written once by ``hansa-server init`` and read by all other commands."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError
from hansa.core.storage import write_atomically

_FILE = "server.json"


class ServerSettings(BaseModel):
    """What the server needs to know about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    federation: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "hansa"
    address: Annotated[str, Field(pattern=r"^[^\s/:]+:\d{1,5}$")]
    """Host and port at which merchants reach the server; it listens on that port."""
    listen: str = "0.0.0.0"  # noqa: S104 - merchants come from outside; every call needs a certificate
    """Local interface to listen on."""
    base_models: dict[str, Path]
    """Name in plans -> local Hugging Face folder."""
    public_catalogue: Path | None = None
    """CSV of public item texts: the basis of the tower, and what releases are checked on."""
    reflection: bool = False
    """Whether gRPC reflection is offered."""

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
        return int(self.address.rpartition(":")[2])

    @property
    def host(self) -> str:
        """The name or IP address that merchants use."""
        return self.address.rpartition(":")[0]


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

    def refuse_if_initialised(self) -> None:
        """Guards an existing server.

        Raises:
            ConflictError: there is a server's state already.
        """
        if (self.path / _FILE).exists():
            raise ConflictError(
                f"{self.path} already holds a server's state; choose another folder with --state"
            )

    def write(self, settings: ServerSettings) -> None:
        """Writes the settings of a new server."""
        write_atomically(self.path / _FILE, canonical_json(settings.model_dump(mode="json")))

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
