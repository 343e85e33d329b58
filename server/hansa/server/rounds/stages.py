"""The stages of a secure round as durable tasks: who is asked, and what becomes of each reply.

Every stage is a set of tasks, ``run/round/stage/merchant``. A server that was killed posts the same
tasks again and finds those that are done.
"""

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Message, RecordDict

from hansa.core.content import Content
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import RunPlan
from hansa.core.secure.collector import Rejected
from hansa.core.secure.protocol import KEYS, SHARES, TRAIN
from hansa.core.secure.roster import Trust
from hansa.server.rounds.cohort import SURPLUS
from hansa.server.rounds.flower import to_content
from hansa.server.state.runs import Refusal
from hansa.server.state.tables import TaskRow

_log = logging.getLogger(__name__)

_COUNTED = (KEYS, SHARES, TRAIN)
"""A fault in one of these leaves a merchant out of the sum."""

_DEADLINE = "deadline"

Refused = dict[MerchantId, Refusal]
"""Who is not in the sum, and why."""


class StageGrid(Protocol):
    """The part of ``RoundGrid`` that the stages need."""

    def begin(self, round_number: int, phase: str) -> None:
        """Names what the next messages belong to."""
        ...

    def names(self) -> dict[int, MerchantId]:
        """Node ids and names of all merchants."""
        ...

    def asked_before(self) -> list[int]:
        """Node ids of the merchants that have a task of what was begun."""
        ...

    def replies(
        self, messages: Iterable[Message], *, timeout_s: float
    ) -> Generator[Message, None, None]:
        """The replies as they come; closed early, it waits for no more."""
        ...

    def rows(
        self, round_number: int, phase: str, merchants: Iterable[MerchantId]
    ) -> Sequence[TaskRow]:
        """The tasks of a stage as they stand."""
        ...


@dataclass(frozen=True, kw_only=True)
class SecureRun:
    """What all secure rounds of a run have in common."""

    grid: StageGrid
    plan: RunPlan
    run_id: RunId
    trust: Trust
    """Who may be a member; each certificate is judged when its holder's keys came."""
    go_on: Callable[[], None]
    """Raises when the run is to end."""


class Stages:
    """Asks the members of one round, one stage after the other."""

    def __init__(self, around: SecureRun, number: int, refused: Refused) -> None:
        """``refused`` takes the reasons of those who are left out of the sum."""
        self._around = around
        self._number = number
        self._refused = refused
        self._names = around.grid.names()
        self._node_ids = {name: node_id for node_id, name in self._names.items()}
        self.last: Message | None = None
        """The newest reply."""

    def gather(
        self, stage: str, requests: Mapping[MerchantId, RecordDict]
    ) -> dict[MerchantId, Content]:
        """Everybody's answers to a stage."""
        answers: dict[MerchantId, Content] = {}

        def take(name: MerchantId, content: Content) -> bool:
            answers[name] = content
            return False

        self.each(stage, requests, take)
        return answers

    def each(
        self,
        stage: str,
        requests: Mapping[MerchantId, RecordDict],
        take: Callable[[MerchantId, Content], bool],
    ) -> None:
        """Asks, and hands over every answer once, until ``take`` says that it is enough.

        What had arrived by then is still handed over: whoever was in time is in, in whatever order
        a server that goes on after a crash reads the answers.
        """
        done: set[MerchantId] = set()
        if self._pass(stage, requests, take, done):
            self._pass(stage, requests, take, done, late=SURPLUS)

    def reject(self, rejected: Rejected) -> None:
        """Leaves out whose answer to a stage before the sum does not count."""
        for name, sentence in rejected.items():
            self._refused[name] = Refusal(reason="rejected", sentence=sentence)

    def _pass(
        self,
        stage: str,
        requests: Mapping[MerchantId, RecordDict],
        take: Callable[[MerchantId, Content], bool],
        done: set[MerchantId],
        late: str = "",
    ) -> bool:
        """True when ``take`` had enough before all had answered; ``late``: it has enough now."""
        grid = self._around.grid
        grid.begin(self._number, stage)
        messages = [
            Message(records, dst_node_id=self._node_ids[name], message_type="train")
            for name, records in requests.items()
            if name not in done
        ]
        timeout_s = self._around.plan.federation.deadline_s
        enough = False
        with contextlib.closing(grid.replies(messages, timeout_s=timeout_s)) as replies:
            for reply in replies:
                name = self._names[reply.metadata.src_node_id]
                if name not in done:
                    done.add(name)
                    enough = self._take(stage, name, reply, take, late)
                if enough and not late:
                    break
        self._around.go_on()
        return enough and not late

    def _take(
        self,
        stage: str,
        name: MerchantId,
        reply: Message,
        take: Callable[[MerchantId, Content], bool],
        late: str,
    ) -> bool:
        self.last = reply
        if not reply.has_error():
            return take(name, to_content(reply.content))
        reason, _, sentence = (reply.error.reason or "failed").partition(": ")
        if late and reason == _DEADLINE:
            reason, sentence = late, "the cohort was full"
        if stage in _COUNTED:
            self._refused[name] = Refusal(reason=reason, sentence=sentence)
        else:
            note(stage, {name: f"{reason}: {sentence}"})
        return False


def note(stage: str, rejected: Rejected) -> None:
    """The member's update counts all the same."""
    for name, sentence in rejected.items():
        _log.warning("stage %s without %s: %s", stage, name, sentence)
