"""Settings as people type them: ``partition-id=0``, ``data=shop.csv``, ``fast=true``."""

import re
import tomllib
from collections.abc import Iterable

from hansa.core.errors import InvalidInputError

Setting = bool | int | float | str

_KEY = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")


def parse_settings(pairs: Iterable[str]) -> dict[str, Setting]:
    """``KEY=VALUE`` pairs; a value that is no TOML number, boolean or quoted text is a text.

    Raises:
        InvalidInputError: a pair has no equals sign or no proper key, or repeats a key.
    """
    settings: dict[str, Setting] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise InvalidInputError(f"{pair!r} is no KEY=VALUE, such as 'partition-id=0'")
        if key in settings:
            raise InvalidInputError(f"{key!r} is set twice; say it once")
        settings[key] = _value(text)
    return settings


def _value(text: str) -> Setting:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text
    return value if isinstance(value, bool | int | float | str) else text
