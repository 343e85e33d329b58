"""Runs a foreign Flower ``ClientApp`` on one message, in this process.

The app sees what it would see under Flower: the message, the run's settings, the merchant's own
settings for it, and a state that lasts from message to message of one run. It is given no path of
the site. It is not locked in: it runs with this process' rights, which is what the merchant's list
of allowed apps is for.
"""

import datetime as dt
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from flwr.app import Array, Context, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp

from hansa.client.flower_records import ApplicationError, to_content, to_records
from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.envelope import Envelope, flower_id, seal, unseal
from hansa.core.errors import InvalidInputError
from hansa.core.object_ref import load_object
from hansa.core.storage import write_atomically

_OPERATOR_NODE_ID: Final = 1
_TTL_S: Final = 43_200.0  # Flower's own
_RUNS_KEPT: Final = 20


@dataclass(frozen=True, kw_only=True)
class GuestTask:
    """One message for an app, and what its context says."""

    app: str
    """``module:object``."""
    task_id: str
    run: str
    merchant: str
    node_id: int
    """The number under which the app's other half knows this merchant; 0 where it was not told."""
    phase: str
    node_config: Mapping[str, bool | int | float | str]
    run_config: Mapping[str, bool | int | float | str]
    now: dt.datetime


class GuestApp:
    """Calls apps, and keeps their states."""

    def __init__(self, states: Path) -> None:
        self._states = AppStates(states)

    def load(self, ref: str) -> ClientApp:
        """The app of that name.

        Raises:
            InvalidInputError: it does not exist, cannot be imported, or is no ``ClientApp``.
        """
        found = load_object(ref)
        if not isinstance(found, ClientApp):
            raise InvalidInputError(
                f"{ref!r} is {type(found).__name__}, no Flower ClientApp; name the right object"
            )
        return found

    def __call__(self, task: GuestTask, contents: Sequence[bytes]) -> bytes:
        """The reply's content file; the records of all ``contents`` together are the message.

        Raises:
            ApplicationError: the app answered with an error, or with no message.
            InvalidInputError: the content is malformed.
        """
        envelope, content = unseal(_merged(contents))
        if envelope.category != task.phase:
            raise InvalidInputError("the message is of another kind than its task")
        context = self._context(task)
        # ``metadata`` is public in ``Message`` but missing in its typed overloads.
        message = Message(to_records(content), metadata=_metadata(task, envelope))  # type: ignore[call-overload]
        reply = self.load(task.app)(message=message, context=context)
        if not isinstance(reply, Message):
            raise ApplicationError(f"the app returned a {type(reply).__name__}, no Message")
        if reply.has_error():
            raise ApplicationError(f"the app answered with error {reply.error.code}")
        answer = seal(to_content(_readable(reply.content)), envelope).to_bytes()
        self._states.keep(task.run, task.task_id, context.state)
        return answer

    def _context(self, task: GuestTask) -> Context:
        return Context(
            run_id=flower_id(task.run),
            node_id=_node_id(task),
            node_config=dict(task.node_config),
            state=self._states.before(task.run, task.task_id),
            run_config=dict(task.run_config),
        )


class AppStates:
    """``Context.state`` of each run, kept from message to message and over restarts.

    Two generations are kept, each with the task that made it: a task that comes again after a crash
    begins with the state that it began with the first time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, run: str, task_id: str) -> RecordDict:
        """The state with which a task begins."""
        for path in self._paths(run):
            if path.exists():
                envelope, content = unseal(Content.from_bytes(path.read_bytes()))
                if envelope.group_id != task_id:
                    return to_records(content)
        return RecordDict()

    def keep(self, run: str, task_id: str, state: RecordDict) -> None:
        """Keeps the state with which a task ended."""
        newest, older = self._paths(run)
        sealed = seal(to_content(state), Envelope(message_type="train", group_id=task_id))
        if newest.exists() and _made_by(newest) != task_id:
            newest.replace(older)
        elif not newest.exists():
            self._forget_old_runs()
        write_atomically(newest, sealed.to_bytes(), mode=0o600)

    def _paths(self, run: str) -> tuple[Path, Path]:
        name = sha256_hex(run.encode())
        return self._folder / f"{name}.safetensors", self._folder / f"{name}.older.safetensors"

    def _forget_old_runs(self) -> None:
        files = sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in files[: -2 * _RUNS_KEPT]:
            path.unlink(missing_ok=True)


def _readable(records: RecordDict) -> RecordDict:
    """Flower's older interfaces leave an array's type and shape to the ``.npy`` file within."""
    for record in records.array_records.values():
        for name, array in record.items():
            if not array.dtype:
                record[name] = Array(np.load(io.BytesIO(array.data), allow_pickle=False))
    return records


def _made_by(path: Path) -> str:
    return unseal(Content.from_bytes(path.read_bytes()))[0].group_id


def _merged(contents: Sequence[bytes]) -> Content:
    merged = Content()
    for data in contents:
        one = Content.from_bytes(data)
        merged = replace(
            merged,
            arrays={**merged.arrays, **one.arrays},
            metrics={**merged.metrics, **one.metrics},
            configs={**merged.configs, **one.configs},
        )
    return merged


def _node_id(task: GuestTask) -> int:
    return task.node_id or flower_id(task.merchant)


def _metadata(task: GuestTask, envelope: Envelope) -> Metadata:
    return Metadata(
        run_id=flower_id(task.run),
        message_id=task.task_id,
        src_node_id=_OPERATOR_NODE_ID,
        dst_node_id=_node_id(task),
        reply_to_message_id="",
        group_id=envelope.group_id,
        created_at=task.now.timestamp(),
        ttl=_TTL_S,
        message_type=envelope.message_type,
    )
