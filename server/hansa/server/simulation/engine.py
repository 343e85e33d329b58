"""One simulated run: the plane's loop over virtual merchants, judged before and after."""

import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.ids import RunId
from hansa.core.plan import RunPlan
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.storage import BlobStore, write_atomically
from hansa.core.update import Arrays
from hansa.server.plan_check import shown
from hansa.server.rounds import cohort
from hansa.server.rounds.checkpoints import Checkpoints
from hansa.server.rounds.evaluation import HITS, SHOPPERS
from hansa.server.rounds.intake import ARRAYS, METRICS
from hansa.server.rounds.loop import RoundLoop, RunParts
from hansa.server.rounds.strategies import make_strategy
from hansa.server.simulation.flower_engine import run_in_flower
from hansa.server.simulation.in_process import InProcessGrid
from hansa.server.simulation.report import (
    PrivacyFigures,
    Quality,
    RoundFigures,
    SimulationReport,
)
from hansa.server.simulation.room import Room, SimulationRequest, check, furnish, left_out
from hansa.server.simulation.virtual_grid import VirtualGrid, Watch
from hansa.server.state.runs import RoundRecord

MODEL = "model.safetensors"
REPORT = "report.json"
_JUDGED = 200
"""At most so many virtual merchants judge a model; all engines draw the same ones."""


class RoundList:
    """The rounds of a simulated run, in memory; implements ``RoundBook``."""

    def __init__(self) -> None:
        self._records: list[RoundRecord] = []

    def rounds(self, run_id: str) -> list[RoundRecord]:
        """All rounds so far, in order."""
        return list(self._records)

    def checkpoint(self, run_id: str, record: RoundRecord) -> None:
        """Keeps a round."""
        self._records.append(record)


@dataclass(frozen=True, kw_only=True)
class _Result:
    model: Arrays
    records: list[RoundRecord]
    before: Quality
    after: Quality
    began: float
    """Of ``time.perf_counter``, when the first round began."""
    seconds: float


def simulate(
    request: SimulationRequest, folder: Path, watch: Watch = lambda _step: None
) -> SimulationReport:
    """Runs a plan with virtual merchants; writes the model and the report into a folder.

    Args:
        request: what is to be simulated.
        folder: for the shops, the model and the report; with Ray on several machines, one that all
            of them see.
        watch: told of every answer.

    Raises:
        InvalidInputError: the plan or the data cannot be simulated.
        QuorumNotMetError: a round had fewer valid updates than the plan's quorum.
    """
    check(request)
    folder = folder.resolve()
    started = time.perf_counter()
    room = furnish(request, folder)
    result = _carry_out(request, room, folder, watch)
    model = Content(arrays={ARRAYS: result.model}).to_bytes()
    write_atomically(folder / MODEL, model)
    report = _report(request, room, result, set_up_s=result.began - started, model=model)
    write_atomically(folder / REPORT, report.model_dump_json(indent=2).encode() + b"\n")
    return report


def _carry_out(request: SimulationRequest, room: Room, folder: Path, watch: Watch) -> _Result:
    run_id = _run_id(request)

    def work(grid: VirtualGrid) -> _Result:
        return _run(request.plan, room.initial, grid, run_id, BlobStore(folder / "blobs"))

    if request.engine == "ray":
        return run_in_flower(
            work,
            room.spec,
            merchants=request.merchants,
            workers=request.workers,
            run_id=run_id,
            watch=watch,
        )
    grid = InProcessGrid(
        room.spec, request.merchants, workers=request.workers, run_id=run_id, watch=watch
    )
    with closing(grid):
        return work(grid)


def _run_id(request: SimulationRequest) -> RunId:
    """Cohorts are drawn by the run's name, so the seed is in it."""
    return RunId(f"simulation-{request.seed}")


def _run(
    plan: RunPlan, initial: Arrays, grid: VirtualGrid, run_id: RunId, blobs: BlobStore
) -> _Result:
    book = RoundList()
    parts = RunParts(
        run_id=run_id,
        plan=_without_waiting(plan),
        strategy=make_strategy(plan.federation),
        grid=grid,
        checkpoints=Checkpoints(run_id, book, blobs),
        stopped=lambda: False,
        note=lambda _kind, _sentence: None,
    )
    before = _judge(plan, initial, grid, run_id)
    began = time.perf_counter()
    model = RoundLoop(parts).run(initial)
    seconds = time.perf_counter() - began
    return _Result(
        model=model,
        records=book.rounds(run_id),
        before=before,
        after=_judge(plan, model, grid, run_id),
        began=began,
        seconds=seconds,
    )


def _without_waiting(plan: RunPlan) -> RunPlan:
    """The deadline's only effect here would be to wait for merchants whom nobody starts."""
    federation = plan.federation.model_copy(update={"deadline_s": 0.001})
    return plan.model_copy(update={"federation": federation})


def _judge(plan: RunPlan, model: Arrays, grid: VirtualGrid, run_id: RunId) -> Quality:
    """The model's recall over the held-out shoppers of some merchants."""
    grid.begin(plan.federation.rounds, "evaluate")
    names = grid.names()
    count = min(_JUDGED, len(names))
    drawn = set(cohort.draw(sorted(names.values()), count, run=run_id, round_number=0))
    record = RecordDict(
        {
            ARRAYS: ArrayRecord({name: Array(array) for name, array in model.items()}),
            "config": ConfigRecord({"server-round": plan.federation.rounds}),
        }
    )
    messages = [
        Message(record, dst_node_id=node, message_type="evaluate")
        for node, name in names.items()
        if name in drawn
    ]
    return _pooled(list(grid.send_and_receive(messages)))


def _pooled(replies: list[Message]) -> Quality:
    sums = [reply.content.metric_records[METRICS] for reply in replies if not reply.has_error()]
    hits = sum(float(str(one[HITS])) for one in sums)
    shoppers = round(sum(float(str(one[SHOPPERS])) for one in sums))
    return Quality(
        recall_at_10=hits / shoppers if shoppers else None, shoppers=shoppers, merchants=len(sums)
    )


def _report(
    request: SimulationRequest, room: Room, result: _Result, *, set_up_s: float, model: bytes
) -> SimulationReport:
    plan = request.plan
    return SimulationReport(
        plan=plan.name,
        plan_digest=plan.digest,
        engine=request.engine,
        workers=request.workers,
        merchants=request.merchants,
        seed=request.seed,
        data=room.shops,
        left_out=left_out(plan),
        privacy=_privacy(plan, result.records),
        quality_before=result.before,
        quality_after=result.after,
        rounds=[RoundFigures.of(record) for record in result.records],
        public_bytes=room.public_bytes,
        set_up_s=round(set_up_s, 3),
        rounds_s=round(result.seconds, 3),
        model_sha256=sha256_hex(model),
    )


def _privacy(plan: RunPlan, records: list[RoundRecord]) -> PrivacyFigures:
    """A merchant that was asked has trained, whether or not its update was used."""
    asked = Counter(name for record in records for name in record.cohort)
    most = max(asked.values(), default=0)
    privacy = PrivacyPlan.of(plan)
    trained = replace(privacy, rounds=most)
    return PrivacyFigures(
        delta=privacy.delta,
        epsilon_of_every_round=shown(privacy.shopper_epsilon()),
        most_rounds_of_one_merchant=most,
        epsilon_of_most_rounds=shown(trained.shopper_epsilon(evaluations=0)),
    )
