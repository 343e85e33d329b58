"""Code that a plan names as ``module:object`` and that its user installed himself.

Nothing executable comes over the wire: a plan holds a name, and a name alone runs nothing. Whoever
would run it asks its own allow-list first.
"""

import importlib
import re
from collections.abc import Collection
from typing import Annotated, Any, Final

from pydantic import Field

from hansa.core.errors import InvalidInputError, UnauthorisedError

PATTERN: Final = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
"""As Flower writes it in ``pyproject.toml``: ``package.module:app``."""

ObjectRef = Annotated[str, Field(pattern=PATTERN, max_length=200)]


def check_ref(text: str) -> str:
    """The reference, if it has the form of one.

    Raises:
        InvalidInputError: it has not.
    """
    if len(text) > 200 or not re.fullmatch(PATTERN, text):
        raise InvalidInputError(f"{text!r} is no 'module:object', such as 'quickstart.app:app'")
    return text


def check_allowed(ref: str, allowed: Collection[str], remedy: str) -> None:
    """Lets only code run that is on a list.

    Args:
        ref: what a plan names.
        allowed: the list.
        remedy: what to do about it, for the error.

    Raises:
        UnauthorisedError: the list does not name it.
    """
    if ref not in allowed:
        raise UnauthorisedError(f"{ref!r} is not on the list of allowed apps; {remedy}")


def load_object(ref: str) -> Any:
    """The object that a reference names; imports its module, so check the allow-list first.

    Raises:
        InvalidInputError: the module or the object does not exist, or cannot be imported.
    """
    module_name, _, path = check_ref(ref).partition(":")
    importlib.invalidate_caches()  # it may have been installed since this process began
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"{ref!r} cannot be loaded: there is no module {error.name!r} here; install its package"
        ) from error
    except Exception as error:  # a seam: any code may run while a foreign module is imported
        raise InvalidInputError(
            f"{ref!r} cannot be loaded: importing it ended with {type(error).__name__}: {error}"
        ) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise InvalidInputError(
                f"{ref!r} cannot be loaded: {module_name} has no {name!r}; correct the name"
            ) from error
    return found
