"""A federation's two ends without torch: a model of four numbers, and applications that add to it.

Use ``open_toy_releases`` where ``hansa.server.serve.assemble`` wants an ``open_releaser``, and
``ToyApplication(step)`` where ``hansa.client.node.work.Worker`` wants an application.
"""

import datetime as dt
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hansa.core import evidence
from hansa.core.content import Content
from hansa.core.errors import NotFoundError
from hansa.core.ids import ReleaseVersion
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.entries import Entry
from hansa.core.storage import BlobStore
from hansa.core.update import Arrays
from hansa.server.releases.files import RepositoryFiles
from hansa.server.releases.keys import load_online_keys
from hansa.server.releases.repository import ReleaseRepository
from hansa.server.rounds.worker import Published
from hansa.server.settings import ServerSettings, StateFolder
from hansa.server.state.runs import RoundRecord
from hansa.server.state.tables import RunRow

MODEL = "toy"
VERSION = 7
"""Of everything that a toy releases."""
FIRST_MODEL: Arrays = {
    "weights": np.array([1.0, 2.0, 3.0], np.float32),
    "bias": np.array(0.5, np.float32),
}
CONTEXT = Content(arrays={"public": {"negatives": np.arange(4, dtype=np.float32)}})

Change = Callable[[Content], Content]


def toy_plan(
    name: str = "toy",
    *,
    releases: bool = False,
    begins_with: str = "base-model",
    **federation: object,
) -> RunPlan:
    """A plan whose rounds cost an epsilon of about 0.013 each; it may be evaluated and released."""
    limits: dict[str, object] = {"rounds": 2, "quorum": 2, "deadline_s": 20.0, **federation}
    privacy = {"sampling_rate": 0.1, "expected_shoppers": 10, "noise_multiplier": 20.0}
    noise = {"evaluation_noise_multiplier": 50.0} if releases else {}
    end = {} if releases else {"compression": None}
    plan = {"name": name, "model": {"base": MODEL}, "federation": limits, **end}
    plan["begins_with"] = begins_with
    return parse_plan({**plan, "privacy": {**privacy, **noise}}, "the plan")


class ToyReleases:
    """The server's models and releases: a real TUF repository that no run ever adds to.

    ``released`` holds the models that would have been published, by run.
    """

    def __init__(self, state: StateFolder) -> None:
        self.released: dict[str, Arrays] = {}
        self._repository = ReleaseRepository(state.releases, load_online_keys(state.release_keys))

    @property
    def files(self) -> RepositoryFiles:
        return self._repository.files

    def root(self) -> bytes:
        return self.files.root()

    def refresh(self, now: dt.datetime) -> None:
        self._repository.refresh_timestamp(now)

    def newest(self) -> int:
        return VERSION if self.released else 0

    def initial(self, plan: RunPlan, parent: int) -> Arrays:
        return list(self.released.values())[-1] if parent else FIRST_MODEL

    def context(self, plan: RunPlan, inherited: Content | None) -> Content:
        return inherited or CONTEXT

    def release(
        self,
        run: RunRow,
        plan: RunPlan,
        model: Arrays,
        rounds: list[RoundRecord],
        ledgers: dict[str, tuple[Entry, ...]],
        now: dt.datetime,
        go_on: Callable[[], None],
    ) -> Published:
        go_on()
        self.released[run.run_id] = model
        return self._published()

    def made_by(self, run_id: str) -> Published | None:
        return self._published() if run_id in self.released else None

    def _published(self) -> Published:
        return Published(version=ReleaseVersion(VERSION), figures={"mean_cosine": 0.99})

    def evidence(self, version: int) -> evidence.Release:
        raise NotFoundError("the toy releases nothing")


def open_toy_releases(
    state: StateFolder, _settings: ServerSettings, _blobs: BlobStore
) -> ToyReleases:
    return ToyReleases(state)


class ToyApplication:
    """Adds a constant to every number, and remembers in which rounds it trained.

    Each hook is for one kind of test: ``change`` breaks the reply, ``hold`` keeps the work of the
    rounds from ``hold_from`` on waiting until it is set, ``die`` ends the client as a crash would.
    """

    def __init__(
        self,
        step: float = 1.0,
        *,
        change: Change = lambda reply: reply,
        hold: threading.Event | None = None,
        hold_from: int = 1,
        die: bool = False,
    ) -> None:
        self.step = step
        self.rounds: list[int] = []
        self.held = threading.Event()
        """Set when the work has begun to wait."""
        self._change = change
        self._hold = hold
        self._hold_from = hold_from
        self._die = die

    def prepare(self, plan: RunPlan) -> None:
        """A toy is always ready."""

    def __call__(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
        task, context = [Content.from_bytes(content) for content in contents]
        assert np.array_equal(context.arrays["public"]["negatives"], np.arange(4))
        if phase == "evaluate":
            return Content(metrics={"metrics": self.quality()}).to_bytes()
        self.rounds.append(int(str(task.configs["config"]["server-round"])))
        if self._die:
            raise Crash
        if self._hold is not None and self.rounds[-1] >= self._hold_from:
            self.held.set()
            self._hold.wait(30)
        return self._change(self._trained(task)).to_bytes()

    def quality(self) -> dict[str, float]:
        """What it reports as its noised counts."""
        return {"recall-at-10-sum": 3.0 * self.step, "shoppers": 10.0 * self.step}

    def _trained(self, task: Content) -> Content:
        arrays = {
            name: (array + self.step).astype(array.dtype)
            for name, array in task.arrays["arrays"].items()
        }
        return Content(arrays={"arrays": arrays}, metrics={"metrics": {"num-examples": 1}})


class Crash(BaseException):
    """The process dies here; nothing in Hansa catches it."""


def with_arrays(change: Callable[[Arrays], Arrays]) -> Change:
    """A change of the reply's arrays."""
    return lambda reply: replace(reply, arrays={"arrays": change(reply.arrays["arrays"])})


def toy_flower_app() -> ClientApp:
    """The toy as one of Flower's own apps: returns the arrays as they came."""
    app = ClientApp()

    @app.train()
    def train(message: Message, _context: Context) -> Message:
        records = {
            "arrays": message.content.array_records["arrays"],
            "metrics": MetricRecord({"num-examples": 1}),
        }
        return Message(RecordDict(records), reply_to=message)

    return app
