"""What was measured, on what: medians with their spread, CPU seconds, memory, the machine."""

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PACKAGES = ("flwr", "grpcio", "protobuf", "numpy", "safetensors", "sqlalchemy", "ray", "torch")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest and all values, in the unit of the values."""
    rounded = [round(value, 4) for value in values]
    return {
        "median": round(statistics.median(values), 4),
        "min": min(rounded),
        "max": max(rounded),
        "values": rounded,
    }


def median(values: Sequence[float]) -> float:
    """The median, to four places."""
    return round(statistics.median(values), 4)


def cpu_seconds(pid: int) -> float:
    """User and system CPU seconds that a live process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:13]) / _TICKS_PER_S


def status_bytes(pid: int, field: str) -> int:
    """A line of ``/proc/PID/status`` that is in kB, such as ``VmHWM`` or ``RssAnon``, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def forget_peak(pid: int) -> None:
    """Begins the process's peak of resident memory (``VmHWM``) anew from what it holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def machine() -> dict[str, Any]:
    """The machine, as far as it bears on the figures."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Python and the packages that the figures depend on."""
    found = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **{k: v for k, v in found.items() if v}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def load() -> list[float]:
    """The load average over 1, 5 and 15 minutes: other work on the machine shows here."""
    return [round(value, 2) for value in os.getloadavg()]


def own_cpu_seconds() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def emit(result: dict[str, Any]) -> None:
    """Writes a part's result as the one JSON object on standard output."""
    about = {"load_average": load(), "machine": machine(), "versions": versions()}
    sys.stdout.write(json.dumps({**result, **about}, indent=2) + "\n")


def note(sentence: str) -> None:
    """Tells whoever watches how far the benchmark is; standard output holds the JSON alone."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {sentence}\n")
    sys.stderr.flush()
