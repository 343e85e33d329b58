"""Makes the virtual environment: one named step after the other, each failure with its remedy.

Runs on any Python 3.11 or newer with nothing installed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path


def main() -> None:
    """Makes ``--venv`` with the packages of ``--requirements`` and Hansa itself (editable)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--requirements", type=Path, required=True)
    options = parser.parse_args()
    _check_python()
    _make(options.venv)
    pip = [
        str(options.venv / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "-q",
    ]
    _step("install the pinned packages", [*pip, "-r", str(options.requirements)], _NETWORK)
    _step("install hansa", [*pip, "--no-deps", "--no-build-isolation", "-e", "."], _DAMAGED)


_NETWORK = (
    "check the network and the package index in pip's settings (pip config list), "
    "then run make again"
)
_DAMAGED = "remove .venv and run make again"


def _check_python() -> None:
    if sys.version_info < (3, 11):
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            f"setup: Python 3.11 or newer is needed, this is {found}; "
            "run 'make PYTHON=python3.11 setup'"
        )


def _make(folder: Path) -> None:
    if (folder / "bin" / "python").exists():
        return
    print("setup: make the virtual environment", flush=True)
    try:
        venv.create(folder, with_pip=True)
    except subprocess.CalledProcessError:
        sys.exit(
            "setup: Python cannot make virtual environments here; "
            "run 'apt-get install python3-venv'"
        )


def _step(name: str, command: list[str], remedy: str) -> None:
    print(f"setup: {name}", flush=True)
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"setup: the step '{name}' failed; {remedy}")


if __name__ == "__main__":
    main()
