"""How long a node's unary calls take: heartbeats under a session that another process opened.

``python -m benchmarks.federation_parts.heartbeats SITE OUT`` calls every 20 ms until SIGTERM, and
writes the quantiles to OUT, the first time at once.
"""

import json
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.federation_parts.processes import die_with_parent
from hansa.client.channel import CALL_TIMEOUT_S, open_channel
from hansa.client.site import Site
from hansa.protos.v1 import federation_pb2 as pb
from hansa.protos.v1 import federation_pb2_grpc as rpc

_PERIOD_S = 0.02


def _quantiles(waits: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(waits, [50, 95, 99])
    named = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": max(waits)}
    return {
        "n": len(waits),
        **{name: round(1e3 * float(value), 2) for name, value in named.items()},
    }


def _measure(site: Site, out: Path, stop: threading.Event) -> None:
    credentials = site.credentials()
    channel = open_channel(
        site.settings().server_address,
        authority_pem=site.authority_pem(),
        key_pem=credentials.key_pem,
        certificate_pem=credentials.certificate_pem,
    )
    waits: list[float] = []
    with channel:
        stub = rpc.FederationStub(channel)
        # Session 1 is the light client's; a heartbeat of any session is the same work.
        while not stop.wait(_PERIOD_S):
            began = time.perf_counter()
            stub.Heartbeat(pb.HeartbeatRequest(session=1), timeout=CALL_TIMEOUT_S)
            waits.append(time.perf_counter() - began)
            if len(waits) == 1:
                out.write_text(json.dumps(_quantiles(waits)))
    out.write_text(json.dumps(_quantiles(waits[1:] or waits)))


if __name__ == "__main__":
    die_with_parent()
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    _measure(Site(Path(sys.argv[1])), Path(sys.argv[2]), told)
