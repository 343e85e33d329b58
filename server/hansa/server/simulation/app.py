"""The app of virtual merchants, and one call of it.

Each virtual merchant has a context of its own, as a node of Flower's has: who it is, the run's
settings, and a state that it keeps from message to message.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from pydantic import BaseModel, ConfigDict

from hansa.core.content import Content
from hansa.core.errors import InvalidInputError
from hansa.core.object_ref import ObjectRef, load_object
from hansa.server.rounds.flower import make_reply, to_content, to_records

ConfigValue = bool | int | float | str

PARTITION = "partition-id"
PARTITIONS = "num-partitions"
"""The two settings by which an app knows whose data it works on, named as in Flower's engine."""

RAISED_CODE = 2
"""Flower's error code of a reply whose app raised an exception."""
CRASHED_CODE = 8
"""Flower's error code of a reply whose process died."""


class AppSpec(BaseModel):
    """An app by its name, so that any process can load it for itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    app: ObjectRef
    """A Flower ``ClientApp``, ``module:object``."""
    run_config: dict[str, ConfigValue] = {}
    """What the app finds in ``context.run_config``."""
    node_config: dict[str, ConfigValue] = {}
    """What it finds in ``context.node_config`` beside its partition."""
    public: Path | None = None
    """A content file whose records accompany every message, as a run's context does."""


@dataclass(frozen=True, kw_only=True)
class VirtualNode:
    """Who a virtual merchant is to Flower."""

    node_id: int
    partition: int
    """Its place among the virtual merchants, from 0."""
    partitions: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an app gave back."""

    answer: bytes | Error
    """A content file, as a merchant would send it."""
    state: RecordDict
    """The state to keep."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One message for one virtual merchant."""

    node: VirtualNode
    message: Message


class AppRunner:
    """Calls one app for any virtual merchant."""

    def __init__(self, app: ClientApp, spec: AppSpec | None = None) -> None:
        self._app = app
        self._run_config = dict(spec.run_config) if spec else {}
        self._node_config = dict(spec.node_config) if spec else {}
        self._public = _public_records(spec.public) if spec and spec.public else RecordDict()

    @staticmethod
    def load(spec: AppSpec) -> "AppRunner":
        """The runner of an app that is named.

        Raises:
            InvalidInputError: the app cannot be loaded, or is no Flower ``ClientApp``.
        """
        return AppRunner(load_app(spec.app), spec)

    def __call__(self, job: Job, state: RecordDict) -> Outcome:
        """The app's answer to a message; what it raises becomes an error, as in Flower.

        The app works on copies: a message that many merchants share stays as it was, and so does
        the state of a merchant whose app failed.
        """
        context = self._context(job.node, copy_records(state))
        content = copy_records(job.message.content)
        content.update(copy_records(self._public))
        try:
            reply = self._app(message=make_reply(content, job.message.metadata), context=context)
            answer = to_answer(reply)
        except Exception as error:  # noqa: BLE001 - a seam: an app may raise anything
            text = f"failed: {type(error).__name__}: {error}"
            return Outcome(answer=Error(RAISED_CODE, text), state=state)
        return Outcome(answer=answer, state=context.state)

    def _context(self, node: VirtualNode, state: RecordDict) -> Context:
        place = {PARTITION: node.partition, PARTITIONS: node.partitions}
        return Context(
            run_id=1,
            node_id=node.node_id,
            node_config={**self._node_config, **place},
            state=state,
            run_config=dict(self._run_config),
        )


def load_app(ref: str) -> ClientApp:
    """The Flower app of that name.

    Raises:
        InvalidInputError: it cannot be loaded, or is something else.
    """
    found = load_object(ref)
    if not isinstance(found, ClientApp):
        raise InvalidInputError(f"{ref!r} is no Flower ClientApp; name the app object itself")
    return found


def copy_records(records: RecordDict) -> RecordDict:
    """Records of their own over the same arrays, which Flower keeps as unchangeable bytes."""
    return RecordDict({key: _copy(record) for key, record in records.items()})


def _copy(record: Any) -> ArrayRecord | MetricRecord | ConfigRecord:
    if isinstance(record, ArrayRecord):
        copy = ArrayRecord()
        for name, array in record.items():
            copy[name] = array
        return copy
    values = {
        key: list(value) if isinstance(value, list) else value for key, value in record.items()
    }
    return MetricRecord(values) if isinstance(record, MetricRecord) else ConfigRecord(values)


def to_answer(reply: Message) -> bytes | Error:
    """What of a reply goes to the server.

    Raises:
        InvalidInputError: a record cannot be sent, for example a metric that is not finite.
    """
    if reply.has_error():
        return Error(reply.error.code, f"failed: {reply.error.reason}")
    return to_content(reply.content).to_bytes()


@functools.lru_cache(maxsize=2)
def _public_records(path: Path) -> RecordDict:
    return to_records(Content.from_bytes(path.read_bytes()))
