"""Flower's Grid with all merchants in this process, or in a few processes of this machine."""

from collections.abc import Generator, Mapping, Sequence
from types import TracebackType

from flwr.app import Error, Message, RecordDict
from flwr.clientapp import ClientApp

from hansa.core.errors import InvalidInputError
from hansa.core.ids import MerchantId, RunId
from hansa.server.rounds.flower import adopt_identity
from hansa.server.simulation.app import AppRunner, AppSpec, Job, VirtualNode
from hansa.server.simulation.virtual_grid import VirtualGrid, Watch
from hansa.server.simulation.workers import WorkerPool, Workforce

FIRST_NODE_ID = 2
"""Flower gives the number 1 to the server."""


def merchant_names(count: int) -> list[MerchantId]:
    """``merchant-0000`` and so on: names that sort as their numbers."""
    width = max(4, len(str(count - 1)))
    return [MerchantId(f"merchant-{number:0{width}d}") for number in range(count)]


class InProcessGrid(VirtualGrid):
    """Calls a ``ClientApp`` for each message; for tests, notebooks and ``simulate``.

    Every virtual merchant has a context of its own, whose state lasts as long as the Grid. With
    one worker the apps run here, one after the other; with more, each worker is a warm process that
    has loaded the app by its name.

    Example:
        >>> with InProcessGrid(app, merchants=10) as grid:
        ...     result = FedAvg().start(grid, initial_arrays=arrays, num_rounds=3)
    """

    def __init__(
        self,
        app: ClientApp | AppSpec | str,
        merchants: int | Sequence[str],
        *,
        workers: int = 1,
        run_id: str = "simulation",
        watch: Watch = lambda _step: None,
    ) -> None:
        """Makes the merchants, and starts the workers if there are to be several.

        Args:
            app: the app itself, its name as ``module:object``, or its name with its settings.
            merchants: their names, or how many there are.
            workers: processes at work at a time.
            run_id: names the run in ``rows`` and in the lottery of cohorts.
            watch: told of every answer.

        Raises:
            InvalidInputError: there is no merchant or no worker, the app cannot be loaded, or an
                app that is not named is to run in several processes.
        """
        names = merchant_names(merchants) if isinstance(merchants, int) else merchants
        if not names or workers < 1:
            raise InvalidInputError("a simulation needs at least one merchant and one worker")
        self._nodes = {
            FIRST_NODE_ID + place: VirtualNode(
                node_id=FIRST_NODE_ID + place, partition=place, partitions=len(names)
            )
            for place in range(len(names))
        }
        members = {FIRST_NODE_ID + place: MerchantId(name) for place, name in enumerate(names)}
        adopt_identity()
        super().__init__(members, run_id=RunId(run_id), watch=watch)
        self._states: dict[int, RecordDict] = {}
        self._workforce = _workforce(AppSpec(app=app) if isinstance(app, str) else app, workers)

    def __enter__(self) -> "InProcessGrid":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; a Grid without any needs no closing."""
        self._workforce.close()

    def states(self) -> Mapping[int, RecordDict]:
        """What each virtual merchant that was asked has kept, by node id."""
        return dict(self._states)

    def _answers(self, messages: Sequence[Message]) -> Generator[bytes | Error, None, None]:
        jobs = [Job(node=self._nodes[one.metadata.dst_node_id], message=one) for one in messages]
        yield from self._workforce.answers(jobs, self._states)


class _ThisProcess:
    """Does the work here, one message after the other."""

    def __init__(self, runner: AppRunner) -> None:
        self._runner = runner

    def answers(
        self, jobs: Sequence[Job], states: dict[int, RecordDict]
    ) -> Generator[bytes | Error, None, None]:
        for job in jobs:
            outcome = self._runner(job, states.get(job.node.node_id, RecordDict()))
            states[job.node.node_id] = outcome.state
            yield outcome.answer

    def close(self) -> None:
        """There is nothing to end."""


def _workforce(app: ClientApp | AppSpec, workers: int) -> Workforce:
    if workers > 1:
        if isinstance(app, ClientApp):
            raise InvalidInputError("to run in several processes, name the app as module:object")
        return WorkerPool(app, workers)
    return _ThisProcess(AppRunner(app) if isinstance(app, ClientApp) else AppRunner.load(app))
