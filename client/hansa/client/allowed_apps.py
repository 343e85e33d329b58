"""Which foreign Flower apps this merchant lets run here, and with what settings of its own.

An entry is the merchant's consent: such an app runs with the client's rights on this machine, and
what it lets out is released under the merchant's own responsibility. It is told nothing about the
shop but the settings that the merchant wrote into the entry.
"""

import datetime as dt
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.errors import InvalidInputError, NotFoundError, UnauthorisedError
from hansa.core.flower_plan import ConfigKey, ConfigValue
from hansa.core.object_ref import ObjectRef, check_ref
from hansa.core.settings_text import Setting
from hansa.core.storage import write_atomically


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AllowedApp(_Part):
    """One app that may run."""

    app: ObjectRef
    node_config: dict[ConfigKey, ConfigValue]
    """What Flower's apps see as ``Context.node_config``."""
    allowed: AwareDatetime


class _Book(_Part):
    apps: tuple[AllowedApp, ...] = ()


class AllowedApps:
    """The list, in one file of the site; it is read anew for each task."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> tuple[AllowedApp, ...]:
        """Every entry, by name.

        Raises:
            InvalidInputError: the file was edited into something else.
        """
        if not self._path.exists():
            return ()
        try:
            book = _Book.model_validate(parse_json(self._path.read_bytes(), str(self._path)))
        except ValidationError as error:
            raise InvalidInputError(
                f"{self._path} is damaged: {error.errors()[0]['msg']}; "
                "delete it and allow the apps anew"
            ) from error
        return tuple(sorted(book.apps, key=lambda one: one.app))

    def find(self, app: str) -> AllowedApp:
        """The entry of an app.

        Raises:
            UnauthorisedError: the merchant did not allow it.
            InvalidInputError: the file was edited into something else.
        """
        for entry in self.all():
            if entry.app == app:
                return entry
        raise UnauthorisedError(
            f"this merchant does not allow the app {app!r}; "
            f"it may do so with 'hansa-client allow-app {app}'"
        )

    def allow(self, app: str, node_config: dict[str, Setting], now: dt.datetime) -> None:
        """Adds an entry, or replaces the one of that app.

        Raises:
            InvalidInputError: the name is no ``module:object``.
        """
        entry = AllowedApp(app=check_ref(app), node_config=node_config, allowed=now)
        self._write([*(one for one in self.all() if one.app != app), entry])

    def forbid(self, app: str) -> None:
        """Takes an entry away; a task of that app that is at work comes to its end.

        Raises:
            NotFoundError: there is none.
        """
        kept = [one for one in self.all() if one.app != app]
        if len(kept) == len(self.all()):
            raise NotFoundError(f"{app!r} is not allowed here anyway")
        self._write(kept)

    def _write(self, entries: list[AllowedApp]) -> None:
        book = _Book(apps=tuple(entries))
        write_atomically(self._path, canonical_json(book.model_dump(mode="json")), mode=0o600)
