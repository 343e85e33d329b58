"""Warm worker processes that run a named app for virtual merchants.

A worker is started as a program, not forked: gRPC and torch do not survive a fork. It is spoken to
over a socket pair in JSON and content files, never in pickles. What all merchants of a round are
sent goes to each worker once.
"""

import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from typing import Protocol, cast

from flwr.app import Error, Message, RecordDict

from hansa.core.content import Content
from hansa.core.errors import InvalidInputError
from hansa.core.quiet import stay_offline
from hansa.server.rounds.flower import to_content, to_records
from hansa.server.simulation.app import CRASHED_CODE, AppSpec, Job

_END_S = 10.0
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_NOTHING = b""


class Workforce(Protocol):
    """Whoever calls the app."""

    def answers(
        self, jobs: Sequence[Job], states: dict[int, RecordDict]
    ) -> Generator[bytes | Error, None, None]:
        """Each job's content file or error, in their order; keeps the merchants' states."""
        ...

    def close(self) -> None:
        """Ends whatever was started for it."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Done:
    answer: bytes | Error
    state: RecordDict


class WorkerPool:
    """So many worker processes, each with the app loaded; close it to end them."""

    def __init__(self, spec: AppSpec, workers: int) -> None:
        """Starts all at once, and waits until each has loaded the app.

        Raises:
            InvalidInputError: the app cannot be loaded.
        """
        self._spec = spec
        self._workers = [_Worker(spec) for _ in range(workers)]
        try:
            for worker in self._workers:
                worker.check_ready()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.end()

    def answers(
        self, jobs: Sequence[Job], states: dict[int, RecordDict]
    ) -> Generator[bytes | Error, None, None]:
        """Each job's content file or error, in their order; keeps the merchants' states.

        A worker that dies costs the job it had in hand, and is replaced.
        """
        shared = _Encoded()
        open_jobs = deque(enumerate(jobs))
        in_hand: dict[_Worker, int] = {}
        done: dict[int, _Done] = {}
        try:
            for place, job in enumerate(jobs):
                while place not in done:
                    self._hand_out(open_jobs, in_hand, states, shared)
                    done |= self._collect(in_hand, jobs, states)
                self._hand_out(open_jobs, in_hand, states, shared)
                outcome = done.pop(place)
                states[job.node.node_id] = outcome.state
                yield outcome.answer
        finally:
            while in_hand:  # nobody waits for these any more, but the line must be free again
                self._collect(in_hand, jobs, states)

    def _hand_out(
        self,
        open_jobs: deque[tuple[int, Job]],
        in_hand: dict["_Worker", int],
        states: dict[int, RecordDict],
        shared: "_Encoded",
    ) -> None:
        for worker in self._workers:
            if worker not in in_hand and open_jobs:
                place, job = open_jobs.popleft()
                in_hand[worker] = place
                worker.send(job, shared, states.get(job.node.node_id, RecordDict()))

    def _collect(
        self, in_hand: dict["_Worker", int], jobs: Sequence[Job], states: dict[int, RecordDict]
    ) -> dict[int, _Done]:
        """Waits for at least one worker, and takes what is there."""
        ready = {id(line) for line in wait([worker.line for worker in in_hand])}
        found = {}
        for worker in [one for one in in_hand if id(one.line) in ready]:
            place = in_hand.pop(worker)
            kept = states.get(jobs[place].node.node_id, RecordDict())
            try:
                found[place] = worker.receive(kept)
            except (EOFError, OSError):
                self._replace(worker)
                error = Error(CRASHED_CODE, "failed: the worker process died")
                found[place] = _Done(answer=error, state=kept)
        return found

    def _replace(self, dead: "_Worker") -> None:
        dead.hang_up()
        dead.end()
        fresh = _Worker(self._spec)
        self._workers[self._workers.index(dead)] = fresh
        fresh.check_ready()


class _Encoded:
    """Content files of what merchants are sent, made once for all that share it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[RecordDict, bytes]] = {}

    def of(self, message: Message) -> bytes:
        content = message.content
        if id(content) not in self._known:
            # The content is kept, lest another one get the same id.
            self._known[id(content)] = (content, to_content(content).to_bytes())
        return self._known[id(content)][1]


class _Worker:
    """One process at the other end of a socket pair."""

    def __init__(self, spec: AppSpec) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "hansa.server.simulation.worker", str(descriptor)],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what an app prints must not get among the command's own output
                env=_environment(),
            )
        self.line = Connection(ours.detach())
        self._holds: bytes | None = None
        self.line.send_bytes(spec.model_dump_json().encode())

    def check_ready(self) -> None:
        """Waits until the app is loaded.

        Raises:
            InvalidInputError: it cannot be loaded.
        """
        try:
            fault = self.line.recv_bytes().decode()
        except (EOFError, OSError) as error:
            raise InvalidInputError("a worker process ended while it loaded the app") from error
        if fault:
            raise InvalidInputError(fault)

    def send(self, job: Job, shared: _Encoded, state: RecordDict) -> None:
        """Hands a job over; a worker that is dead shows when its answer is waited for."""
        content = shared.of(job.message)
        is_new = content is not self._holds
        asked = job.message.metadata
        header = {
            "node": asdict(job.node),
            "message_id": asked.message_id,
            "group_id": asked.group_id,
            "message_type": asked.message_type,
            "created_at": asked.created_at,
            "ttl": asked.ttl,
            "content": is_new,
        }
        frames = [json.dumps(header).encode(), *([content] if is_new else []), encode_state(state)]
        self._holds = content
        try:
            for frame in frames:
                self.line.send_bytes(frame)
        except OSError:
            self._holds = None

    def receive(self, kept: RecordDict) -> _Done:
        """The answer, with the merchant's state after it.

        Raises:
            EOFError: the process is dead.
            OSError: likewise.
        """
        error = json.loads(self.line.recv_bytes())
        answer, state = self.line.recv_bytes(), self.line.recv_bytes()
        if error is not None:
            return _Done(answer=Error(error["code"], error["reason"]), state=kept)
        return _Done(answer=answer, state=decode_state(state))

    def hang_up(self) -> None:
        """Tells the process to end."""
        self.line.close()

    def end(self) -> None:
        """Waits for the process's end, and ends it if it takes too long."""
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def encode_state(state: RecordDict) -> bytes:
    """A merchant's state as a content file; no bytes at all for an empty one."""
    return to_content(state).to_bytes() if state else _NOTHING


def decode_state(data: bytes) -> RecordDict:
    """The state of such bytes."""
    return to_records(Content.from_bytes(data)) if data else RecordDict()


def _environment() -> dict[str, str]:
    """One thread each: the workers are as many as there are cores to use."""
    environment = dict(os.environ)
    stay_offline(environment)
    environment |= dict.fromkeys(_ONE_THREAD, "1")
    environment["PYTHONPATH"] = os.pathsep.join(cast("Iterable[str]", filter(None, sys.path)))
    return environment
