"""Sees from outside where a process connects to, whatever language the call is made in.

``by_strace`` sees every call of the kernel, also those that fail; ``by_sockets`` reads Linux'
tables of sockets every few milliseconds and sees what lives longer. Both return the far ends.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path

Address = tuple[str, int]
Watch = Callable[[Sequence[str], Mapping[str, str], Path], set[Address]]

_LIMIT_S = 100.0
_CALLS = "connect,sendto,sendmsg,sendmmsg"
_IPV4 = re.compile(r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)')
_IPV6 = re.compile(r'sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]+)"')


def by_strace(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> set[Address]:
    """Runs a command to its end under ``strace``."""
    log = folder / "strace.log"
    watched = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", f"trace={_CALLS}", "-o", str(log)]
    subprocess.run([*watched, *command], env=environment, check=True, timeout=_LIMIT_S)
    text = log.read_text(errors="replace")
    return {
        (_plain(address), int(port))
        for pattern in (_IPV4, _IPV6)
        for port, address in pattern.findall(text)
    }


def by_sockets(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> set[Address]:
    """Runs a command to its end and looks at its sockets all the time."""
    seen: set[Address] = set()
    until = time.monotonic() + _LIMIT_S
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None and time.monotonic() < until:
            seen |= _foreign_ends(process.pid)
            time.sleep(0.003)
        process.kill()
    assert process.returncode == 0
    return seen


def watches() -> dict[str, Watch]:
    """What works on this machine, the best first; there is always one on Linux."""
    found: dict[str, Watch] = {"sockets": by_sockets}
    if shutil.which("strace") and _may_trace():
        found = {"strace": by_strace, **found}
    return found


def _may_trace() -> bool:
    probe = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def _foreign_ends(pid: int) -> set[Address]:
    """Where the process connected to; lines that others opened to one of its ports do not count."""
    try:
        own = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
        rows = [
            line.split()
            for table in ("tcp", "tcp6", "udp", "udp6")
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        ]
    except OSError:
        return set()  # a descriptor was closed, or the process ended, while it was looked at
    ends = [(_decoded(row[1])[1], _decoded(row[2])) for row in rows if f"socket:[{row[9]}]" in own]
    listening = {port for port, (_, foreign_port) in ends if foreign_port == 0}
    return {end for port, end in ends if end[1] != 0 and port not in listening}


def _decoded(end: str) -> Address:
    """The kernel's hexadecimal form: words of four bytes in the machine's own order."""
    address, _, port = end.partition(":")
    words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    return _plain(str(ip_address(b"".join(words)))), int(port, 16)


def _plain(address: str) -> str:
    """An IPv4 address also where it travels inside an IPv6 one, as gRPC's do."""
    parsed = ip_address(address)
    inner = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(inner or parsed)
