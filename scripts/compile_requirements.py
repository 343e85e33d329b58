"""Compiles requirements/*.txt from pyproject.toml.

The auditor gets few packages, developers get all.
"""

import subprocess
import sys
from pathlib import Path

TARGETS = {"audit": [], "client": ["client"], "server": ["server"], "dev": ["dev"]}
BUILD = ["hatchling>=1.27"]


def main() -> None:
    """Writes one file for each role; index addresses and local paths stay out of it."""
    for name, extras in TARGETS.items():
        command = [
            sys.executable,
            "-m",
            "piptools",
            "compile",
            "-q",
            "--strip-extras",
            "--no-emit-index-url",
        ]
        command += [
            "--no-emit-find-links",
            "--no-emit-trusted-host",
            "--no-header",
            "--no-annotate",
        ]
        command += [f"--extra={extra}" for extra in extras]
        command += [
            f"--output-file=requirements/{name}.txt",
            "pyproject.toml",
            "requirements/build.in",
        ]
        subprocess.run(command, check=True)
        _make_portable(Path("requirements") / f"{name}.txt")


def _make_portable(file: Path) -> None:
    """Drops this checkout, which extras of extras bring in, and the local label of PyTorch's build.

    Without that label, pip takes the CPU build where one is at hand and the default elsewhere; what
    the default needs for CUDA it names itself, and the CPU build needs none of it.
    """
    lines = file.read_text().splitlines(keepends=True)
    dropped = ("hansa @", "#", "nvidia-", "cuda-", "triton==")
    kept = (line.replace("+cpu", "") for line in lines if not line.startswith(dropped))
    file.write_text("".join(kept))


if __name__ == "__main__":
    main()
