"""The same run in Flower's own simulation, on Ray: one machine or many.

Flower makes the virtual nodes and its Ray actors call the app; the loop over rounds runs in a
``ServerApp``. Flower's engine hands no settings to an app and gives nodes random ids, so a small
app around the named one does both: the partition comes with each message.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from hansa.core.errors import InvalidInputError, TransportError
from hansa.core.ids import MerchantId, RunId
from hansa.server.rounds.flower import make_reply
from hansa.server.rounds.loop import RunInterrupted
from hansa.server.simulation.app import (
    RAISED_CODE,
    AppRunner,
    AppSpec,
    Job,
    VirtualNode,
    copy_records,
)
from hansa.server.simulation.in_process import merchant_names
from hansa.server.simulation.virtual_grid import VirtualGrid, Watch

_VIRTUAL = "hansa-virtual"
_PLACE, _OF, _CONTENT = "partition", "of", "content"
_POLL_S = 0.05

Result = TypeVar("Result")


class NamedApp(ClientApp):
    """A named app with its settings, for an engine that passes app objects around.

    Only names and settings travel to Ray's actors; each loads the app once for itself.
    """

    def __init__(self, spec: AppSpec) -> None:
        super().__init__()
        self._spec_json = spec.model_dump_json()

    def __call__(self, message: Message, context: Context) -> Message:
        """The named app's reply, as one content file."""
        content = copy_records(message.content)
        virtual = content.config_records[_VIRTUAL]
        del content[_VIRTUAL]
        node = VirtualNode(
            node_id=context.node_id,
            partition=int(str(virtual[_PLACE])),
            partitions=int(str(virtual[_OF])),
        )
        job = Job(node=node, message=make_reply(content, message.metadata))
        outcome = _runner(self._spec_json)(job, context.state)
        context.state = outcome.state
        if isinstance(outcome.answer, Error):
            return Message(outcome.answer, reply_to=message)
        packed = RecordDict({_VIRTUAL: ConfigRecord({_CONTENT: outcome.answer})})
        return Message(packed, reply_to=message)


@functools.lru_cache(maxsize=2)
def _runner(spec_json: str) -> AppRunner:
    return AppRunner.load(AppSpec.model_validate_json(spec_json))


class FlowerGrid(VirtualGrid):
    """Virtual merchants behind the Grid that Flower's engine gives to a ``ServerApp``."""

    def __init__(
        self,
        flower: Grid,
        members: Mapping[int, MerchantId],
        *,
        run_id: RunId,
        watch: Watch,
        abandoned: threading.Event,
    ) -> None:
        """Takes Flower's nodes in the order of their ids as merchants 0, 1, 2 and so on.

        Args:
            flower: the engine's.
            members: name of the merchant behind each of its node ids.
            run_id: names the run in ``rows``.
            watch: told of every answer.
            abandoned: set when the engine has ended, so that nobody waits for it.
        """
        super().__init__(members, run_id=run_id, watch=watch)
        self._flower = flower
        self._abandoned = abandoned
        self._places = {node: place for place, node in enumerate(sorted(members))}

    def _answers(self, messages: Sequence[Message]) -> Generator[bytes | Error, None, None]:
        """Flower begins with all of them at once, so that leaving some out spares no work."""
        ids = list(self._flower.push_messages([self._placed(message) for message in messages]))
        if len(ids) != len(messages):
            raise TransportError("Flower's engine refused a message; see its log")
        waiting, found = set(ids), dict[int, bytes | Error]()
        for message in messages:
            node = message.metadata.dst_node_id
            while node not in found:
                if self._abandoned.is_set():
                    raise RunInterrupted
                replies = list(self._flower.pull_messages(waiting))
                found |= {reply.metadata.src_node_id: _unpacked(reply) for reply in replies}
                waiting -= {reply.metadata.reply_to_message_id for reply in replies}
                if not replies:
                    time.sleep(_POLL_S)
            yield found.pop(node)

    def _placed(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        content = RecordDict(dict(message.content.items()))
        content[_VIRTUAL] = ConfigRecord({_PLACE: self._places[node], _OF: len(self._places)})
        return Message(content, dst_node_id=node, message_type=message.metadata.message_type)


def _unpacked(reply: Message) -> bytes | Error:
    if reply.has_error():
        return reply.error
    content = reply.content.config_records[_VIRTUAL][_CONTENT]
    if not isinstance(content, bytes):
        return Error(RAISED_CODE, "failed: the reply holds no content file")
    return content


def run_in_flower(
    work: Callable[[VirtualGrid], Result],
    spec: AppSpec,
    *,
    merchants: int,
    workers: int,
    run_id: RunId,
    watch: Watch,
) -> Result:
    """What ``work`` makes of a Grid over Flower's simulation.

    Args:
        work: the loop over rounds.
        spec: the virtual merchants' app.
        merchants: how many there are.
        workers: Ray actors on this machine, a core each; a cluster named by the environment's
            ``RAY_ADDRESS`` brings its own number.
        run_id: names the run.
        watch: told of every answer.

    Raises:
        InvalidInputError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise InvalidInputError(
            "Flower's simulation needs Ray: install 'hansa[simulation]', or take --engine local"
        )
    from flwr.simulation import run_simulation  # imports Ray, which takes seconds

    results: list[Result] = []
    ended = threading.Event()
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, _context: Context) -> None:
        members = _members(grid, merchants, ended)
        adapter = FlowerGrid(grid, members, run_id=run_id, watch=watch, abandoned=ended)
        results.append(work(adapter))

    with _environment_kept():
        try:
            run_simulation(
                server_app=server_app,
                client_app=NamedApp(spec),
                num_supernodes=merchants,
                backend_config=_backend(workers),
            )
        finally:
            ended.set()
    return results[0]


def _members(grid: Grid, count: int, ended: threading.Event) -> dict[int, MerchantId]:
    """Flower makes its nodes while the ``ServerApp`` begins already."""
    while len(nodes := sorted(grid.get_node_ids())) < count:
        if ended.wait(_POLL_S):
            raise RunInterrupted
    return dict(zip(nodes, merchant_names(count), strict=True))


def _backend(workers: int) -> dict[str, Any]:
    start: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    if "RAY_ADDRESS" not in os.environ:
        start["num_cpus"] = workers
    return {"init_args": start, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Flower extends PYTHONPATH for its actors; what this process starts later is not to see it."""
    before = os.environ.get("PYTHONPATH")
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH", None)
        if before is not None:
            os.environ["PYTHONPATH"] = before
