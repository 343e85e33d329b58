"""Facts about this machine for ``doctor``: read, never written, never judged here.

``hansa.core.diagnosis`` says what the facts mean. Like ``storage`` this module touches the machine:
both ends need the same looks, and may not import each other.
"""

import os
import shutil
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from hansa.core.diagnosis import Finding, Package, disk, gpu, packages, problem, python
from hansa.core.endpoints import endpoints_of
from hansa.core.errors import HansaError

_CONNECT_TIMEOUT_S = 3.0
_NVIDIA = Path("/dev/nvidiactl")


def machine_findings(folder: Path, extra: str) -> list[Finding]:
    """Interpreter, packages, GPU and disk: what a role needs before anything is configured.

    Args:
        folder: where the role keeps its state; it need not exist yet.
        extra: the role's optional dependencies, ``client`` or ``server``.
    """
    return [
        python(sys.version_info[:2]),
        packages(_packages(extra)),
        _gpu(),
        _disk(folder),
    ]


def attempted(name: str, check: Callable[[], Finding | Sequence[Finding]]) -> list[Finding]:
    """A check whose own failure is a finding, so that one broken file hides no other finding."""
    try:
        found = check()
    except (HansaError, OSError) as error:
        return [problem(name, str(error), well="")]
    return [found] if isinstance(found, Finding) else list(found)


def private_modes(paths: Iterable[Path]) -> dict[str, int]:
    """The permission bits of those files that exist."""
    return {str(path): path.stat().st_mode & 0o777 for path in paths if path.is_file()}


def connect_errors(address: str) -> tuple[str | None, ...]:
    """Why no TCP connection comes about, for each server of an address; None where one does."""
    return tuple(_connect_error(endpoint) for endpoint in endpoints_of(address))


def _connect_error(endpoint: str) -> str | None:
    host, _, port = endpoint.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S):
            return None
    except (OSError, ValueError) as error:
        return f"no connection to {endpoint}: {error}"


def shows_certificate_of(endpoint: str, authority: Path, name: str) -> bool:
    """Whether a TLS server with a certificate of this authority and name listens at HOST:PORT.

    So one's own process is told from a stranger on its port, who may as well say nothing at all.
    """
    context = ssl.create_default_context(cafile=authority)
    host, _, port = endpoint.rpartition(":")
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=name),
        ):
            return True
    except (OSError, ValueError):
        return False


def _packages(extra: str) -> list[Package]:
    try:
        wanted = [Requirement(line) for line in requires("hansa") or ()]
    except PackageNotFoundError:
        return [Package(name="hansa", installed=None, wanted="", fits=False)]
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": extra})]
    return [_package(requirement) for requirement in needed]


def _package(requirement: Requirement) -> Package:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return Package(
            name=requirement.name, installed=None, wanted=str(requirement.specifier), fits=False
        )
    return Package(
        name=requirement.name,
        installed=installed,
        wanted=str(requirement.specifier),
        fits=requirement.specifier.contains(installed, prereleases=True),
    )


def _gpu() -> Finding:
    try:
        import torch
    except ImportError:
        return gpu(torch=None, device=None, driver=_NVIDIA.exists())
    seen = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return gpu(torch=str(torch.__version__), device=seen, driver=_NVIDIA.exists())


def _disk(folder: Path) -> Finding:
    place = folder.absolute()
    while not place.is_dir():  # not made yet: it will be made in the nearest one that is there
        place = place.parent
    files = os.statvfs(place)
    return disk(
        str(place),
        free_bytes=shutil.disk_usage(place).free,
        free_files=files.f_favail if files.f_files else None,
        unwritable=None if os.access(place, os.W_OK | os.X_OK) else "permission denied",
    )
