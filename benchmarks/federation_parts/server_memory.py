"""How the server's memory grows with the number of clients: a 90 MB model, FedAvg, 4, 16, 64.

Claims: the server's peak of resident memory grows by less than half a model from 4 to 64 clients;
while they upload, unary calls of a node keep their 95th percentile under 20 ms.

For each number of clients there is a fresh federation. The clients are light ones (see
``light_clients``), in four processes; they download, upload and complete at the same time. The
calls are heartbeats of a process of its own under the session of the first client, one every 20 ms
during the run. ``heartbeat_idle`` is the same before the run. All share the machine's cores; the
clients do so at the lowest priority, for merchants have machines of their own.

Command:
    python -m benchmarks.federation_parts.server_memory --clients 4 16 64

Needs 12 GB of disk and 2 GB of memory. Expected: growth of 0.1 to 0.5 models.
"""

import argparse
import json
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.federation_parts.measure import emit, note, status_bytes
from benchmarks.federation_parts.payload import PAYLOADS, bench_plan
from benchmarks.federation_parts.processes import end_on_sigterm, wait_until
from benchmarks.federation_parts.world import World, scratch
from hansa.client.site import Site

PAYLOAD = "full"
PROCESSES = 4
ROUNDS = 2
_START_S = 300.0
_SAMPLE_S = 0.02


class Peak:
    """The largest anonymous memory of a process: what it holds itself, without mapped files."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.anonymous = 0

    def __enter__(self) -> "Peak":
        """Watches from now on."""
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self.anonymous = max(self.anonymous, status_bytes(self._pid, "RssAnon"))

    def __exit__(self, *_: object) -> None:
        """Watches no more."""
        self._over.set()
        self._thread.join()


def measure(folder: Path, clients: int) -> dict[str, Any]:
    """A federation with so many clients, for two rounds."""
    with World(folder / "world") as world:
        server = world.start_server()
        sites = [world.join(world.fresh_name()) for _ in range(clients)]
        base = status_bytes(server.pid, "VmHWM")
        _start(world, sites)
        plan = bench_plan(PAYLOAD, rounds=ROUNDS, quorum=clients)
        idle = _latency(world, sites[0], "idle", lambda: wait_seconds(3.0))
        with Peak(server.pid) as peak:
            during = _latency(world, sites[0], "during", lambda: world.run(plan))
        high = status_bytes(server.pid, "VmHWM")
    note(f"{clients} clients: peak {high / 1e6:.0f} MB, heartbeat p95 {during['p95_ms']} ms")
    return {
        "peak_rss_mb": round(high / 1e6, 1),
        "peak_anonymous_mb": round(peak.anonymous / 1e6, 1),
        "before_the_run_mb": round(base / 1e6, 1),
        "heartbeat": during,
        "heartbeat_idle": idle,
    }


def _start(world: World, sites: list[Site]) -> None:
    module = "benchmarks.federation_parts.light_clients"
    for number in range(min(PROCESSES, len(sites))):
        paths = [site.path for site in sites[number::PROCESSES]]
        world.processes.python(f"light-{number}", "-m", module, "--payload", PAYLOAD, *paths)
    names = {site.path.name for site in sites}
    wait_until(f"{len(names)} light clients", lambda: names <= world.online(), _START_S)


def wait_seconds(seconds: float) -> None:
    """Lets time pass."""
    threading.Event().wait(seconds)


def _latency(world: World, site: Site, name: str, work: Any) -> dict[str, Any]:
    """The heartbeats' latency while some work goes on."""
    out = world.folder / f"latency-{name}.json"
    module = "benchmarks.federation_parts.heartbeats"
    prober = world.processes.python("heartbeats", "-m", module, site.path, out)
    wait_until("the first heartbeat", out.exists, _START_S)
    work()
    prober.terminate()
    try:
        prober.wait(30.0)
    except subprocess.TimeoutExpired:
        prober.kill()
    return dict(json.loads(out.read_text()))


def main() -> None:
    """Prints one JSON object."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description="the server's memory by number of clients")
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 16, 64])
    options = parser.parse_args()
    results = {}
    for clients in options.clients:
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            results[str(clients)] = measure(Path(folder), clients)
    least, most = (results[str(number(options.clients))] for number in (min, max))
    model = PAYLOADS[PAYLOAD].size_bytes / 1e6
    growth = (most["peak_rss_mb"] - least["peak_rss_mb"]) / model
    emit({"server_rss_growth_models": round(growth, 3), "server_memory": results})


if __name__ == "__main__":
    main()
