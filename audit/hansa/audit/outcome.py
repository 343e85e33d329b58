"""How the auditor's commands end: what went wrong as a sentence, and an exit code of its own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from hansa.core.errors import HansaError

_err = Console(stderr=True, soft_wrap=True)


@contextmanager
def errors_as_exit_codes(as_json: bool) -> Iterator[None]:
    """Prints a deliberate error and ends the command with its exit code."""
    try:
        yield
    except HansaError as error:
        if as_json:
            print_json({"passed": False, "error": type(error).__name__, "detail": str(error)})
        _err.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False)
        raise typer.Exit(error.exit_code) from error


def print_json(value: dict[str, Any]) -> None:
    """For machines."""
    typer.echo(json.dumps(value, indent=2))
