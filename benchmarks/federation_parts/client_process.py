"""Real clients with a trivial application, one or many in a process.

``python -m benchmarks.federation_parts.client_process --marks FILE SITE [SITE ...]`` runs until a
signal ends it. All of it is the product but the training: loop, wire, worker, outbox and ledger.
Each call of the application adds a line {site, round, began, ended} to the file of marks, in
seconds of the machine's monotonic clock, which all its processes share.
"""

import argparse
import datetime as dt
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.federation_parts.payload import noised_reply, reply
from benchmarks.federation_parts.processes import die_with_parent
from hansa.client.entropy import SystemEntropy
from hansa.client.ledger_store import LedgerStore
from hansa.client.node.codec import TaskCodec
from hansa.client.node.loop import NodeLoop
from hansa.client.node.outbox import Outbox
from hansa.client.node.secure import SecureRounds
from hansa.client.node.work import Worker
from hansa.client.site import Site
from hansa.core.content import Content
from hansa.core.plan import RunPlan
from hansa.core.quiet import stay_offline
from hansa.core.storage import BlobStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ConstantStep:
    """An application that adds a number to every value, after a pause that stands for training."""

    merchant: str
    marks: Path
    train_s: float

    def prepare(self, plan: RunPlan) -> None:
        """Nothing needs making ready."""

    def __call__(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
        """The update's content file."""
        began = time.monotonic()
        task = Content.from_bytes(contents[0])
        number = int(str(task.configs["config"]["server-round"]))
        time.sleep(self.train_s)
        model = task.arrays["arrays"]
        if plan.privacy.distributed_noise is not None:
            answer = noised_reply(plan, model)
        else:
            answer = reply(model, self.merchant, number)
        mark = {"site": self.merchant, "round": number, "began": began, "ended": time.monotonic()}
        with self.marks.open("a") as file:
            file.write(json.dumps(mark) + "\n")
        return answer


def utc_now() -> dt.datetime:
    """The present moment, aware of its zone."""
    return dt.datetime.now(dt.UTC)


def take_part(site: Site, marks: Path, train_s: float, stop: threading.Event) -> None:
    """One site's loop, assembled as ``hansa.client.start`` does."""
    settings = site.settings()
    application = ConstantStep(merchant=settings.merchant, marks=marks, train_s=train_s)
    with LedgerStore.open(site.ledger) as store:
        outbox, contexts = Outbox(site.outbox), BlobStore(site.contexts)
        codec = TaskCodec.of(site, store.ledger)
        secure = SecureRounds(site, SystemEntropy(), utc_now)
        worker = Worker(settings, store, outbox, contexts, application, utc_now, codec, secure)
        NodeLoop(site, settings, worker).run(stop)


def _run(sites: Sequence[Site], marks: Path, train_s: float) -> int:
    """Runs the sites until told to stop; one whose loop ends by itself ends the process."""
    stop, faults = threading.Event(), []

    def watched(site: Site) -> None:
        try:
            take_part(site, marks, train_s, stop)
        except Exception as error:  # noqa: BLE001 - the process says why and ends
            _log.exception("%s takes no part any more", site.path.name)
            faults.append(error)
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threads = [threading.Thread(target=watched, args=(site,), daemon=True) for site in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="clients with a trivial application")
    parser.add_argument("--marks", type=Path, required=True)
    parser.add_argument("--train-s", type=float, default=0.0)
    parser.add_argument("sites", type=Path, nargs="+")
    return parser.parse_args()


if __name__ == "__main__":
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    stay_offline(os.environ)
    options = _options()
    sys.exit(_run([Site(path) for path in options.sites], options.marks, options.train_s))
