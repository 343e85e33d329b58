"""What the Grids of a simulation share: names, phases, and what was asked and answered."""

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from flwr.app import Error, Message, Metadata, RecordDict

from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.errors import InvalidInputError
from hansa.core.ids import MerchantId, RunId, task_id
from hansa.server.rounds.flower import OPERATOR_NODE_ID, make_reply, to_content, to_records
from hansa.server.rounds.round_grid import FlowerRun, RoundGrid
from hansa.server.state.tables import TaskRow

_RUN = 1


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far a phase of a round has come."""

    round_number: int
    phase: str
    answered: int
    asked: int


Watch = Callable[[Step], None]
"""Is told of every answer, for a progress bar."""


class VirtualGrid(RoundGrid):
    """Virtual merchants in place of a plane: always there, and nothing is written down for them.

    They share a machine and take turns, so a deadline would measure the machine: there is none.
    Replies come in the order of the node ids, whatever order the work was done in, so that sums
    round alike in every engine.
    """

    def __init__(
        self,
        members: Mapping[int, MerchantId],
        *,
        run_id: RunId,
        watch: Watch,
    ) -> None:
        """Everybody is reached until ``reach`` says otherwise.

        Args:
            members: node id and name of every virtual merchant.
            run_id: names the tasks in ``rows``.
            watch: told of every answer.
        """
        self._members = dict(members)
        self._run_id = run_id
        self._watch = watch
        self._round, self._phase = 0, "train"
        self._excluded: set[MerchantId] = set()
        self._reached = sorted(self._members)
        self._rows: dict[str, TaskRow] = {}
        self._pushed: dict[str, Message] = {}
        self._count = 0

    @abstractmethod
    def _answers(self, messages: Sequence[Message]) -> Generator[bytes | Error, None, None]:
        """Each message's content file or error, in their order; close it to leave out the rest."""

    def begin(self, round_number: int, phase: str) -> None:
        """Names what the next messages belong to, and reaches everybody who is not excluded."""
        self._round, self._phase = round_number, phase
        self._reached = [
            node for node in sorted(self._members) if self._members[node] not in self._excluded
        ]

    def reach(self, node_ids: Iterable[int]) -> None:
        """Lets the next messages reach exactly these merchants."""
        self._reached = sorted(node_ids)

    def exclude(self, merchants: Iterable[MerchantId]) -> None:
        """Asks these merchants no more in this run."""
        self._excluded.update(merchants)

    def names(self) -> dict[int, MerchantId]:
        """Node ids and names of all virtual merchants."""
        return dict(self._members)

    def asked_before(self) -> list[int]:
        """Nobody: a simulation that broke off begins anew."""
        return []

    def rows(self, round_number: int, phase: str, merchants: Iterable[MerchantId]) -> list[TaskRow]:
        """The answered tasks of the last messages; nothing of them is in a database."""
        ids = [task_id(self._run_id, round_number, phase, merchant) for merchant in merchants]
        return [self._rows[name] for name in ids if name in self._rows]

    @property
    def run(self) -> Any:
        """An object with Flower's ``run_id``; strategies never read it."""
        return FlowerRun(run_id=_RUN)

    def get_node_ids(self) -> list[int]:
        """Node ids of the virtual merchants that the next messages reach."""
        return list(self._reached)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keeps messages until their replies are pulled; returns their ids."""
        ids = []
        for message in messages:
            self._count += 1
            ids.append(str(self._count))
            self._pushed[ids[-1]] = self._addressed(message, ids[-1])
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Does the work of the named messages and returns the replies."""
        known = [self._pushed.pop(name) for name in message_ids if name in self._pushed]
        return list(self._deliver(known))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """A reply for each message: content or error. There is no deadline in a simulation."""
        return self.pull_messages(self.push_messages(messages))

    def replies(
        self, messages: Iterable[Message], *, timeout_s: float
    ) -> Generator[Message, None, None]:
        """The replies as they come; closed early, the work of the others is not done at all."""
        ids = self.push_messages(messages)
        return self._deliver([self._pushed.pop(name) for name in ids])

    def _deliver(self, messages: Sequence[Message]) -> Generator[Message, None, None]:
        ordered = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        sizes = _Sizes()
        self._rows = {}
        with closing(self._answers(ordered)) as answers:
            for number, (message, answer) in enumerate(zip(ordered, answers, strict=True), start=1):
                row = self._row(message, answer, sizes)
                self._rows[row.task_id] = row
                self._watch(
                    Step(
                        round_number=self._round,
                        phase=self._phase,
                        answered=number,
                        asked=len(ordered),
                    )
                )
                records = answer if isinstance(answer, Error) else _records(answer)
                yield make_reply(records, _reply_metadata(message))

    def _addressed(self, message: Message, message_id: str) -> Message:
        """The message with an id of its own, to which its reply refers.

        Raises:
            InvalidInputError: there is no such virtual merchant.
        """
        given = message.metadata
        if given.dst_node_id not in self._members:
            raise InvalidInputError(f"no virtual merchant has the node id {given.dst_node_id}")
        metadata = Metadata(
            run_id=_RUN,
            message_id=message_id,
            src_node_id=OPERATOR_NODE_ID,
            dst_node_id=given.dst_node_id,
            reply_to_message_id="",
            group_id=given.group_id or str(self._round),
            created_at=given.created_at,
            ttl=given.ttl,
            message_type=given.message_type,
        )
        return make_reply(message.content, metadata)

    def _row(self, message: Message, answer: bytes | Error, sizes: "_Sizes") -> TaskRow:
        merchant = self._members[message.metadata.dst_node_id]
        sent, sent_bytes = sizes.of(message.content)
        row = TaskRow(
            task_id=task_id(self._run_id, self._round, self._phase, merchant),
            run_id=self._run_id,
            round_number=self._round,
            phase=self._phase,
            merchant=merchant,
            content_sha256=sent,
            content_bytes=sent_bytes,
            deadline=0.0,
            state="refused",
            result_sha256=None,
            result_bytes=0,
        )
        if not isinstance(answer, Error):
            row.state, row.result_sha256, row.result_bytes = "done", sha256_hex(answer), len(answer)
        return row


class _Sizes:
    """Digest and size of what is sent; merchants that share a content share the reckoning."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[RecordDict, str, int]] = {}

    def of(self, content: RecordDict) -> tuple[str, int]:
        """The digest and the number of bytes of its content file."""
        if id(content) not in self._known:
            data = to_content(content).to_bytes()
            # The content is kept, lest another one get the same id.
            self._known[id(content)] = (content, sha256_hex(data), len(data))
        return self._known[id(content)][1:]


def _records(data: bytes) -> RecordDict:
    return to_records(Content.from_bytes(data))


def _reply_metadata(message: Message) -> Metadata:
    asked = message.metadata
    return Metadata(
        run_id=_RUN,
        message_id="",
        src_node_id=asked.dst_node_id,
        dst_node_id=OPERATOR_NODE_ID,
        reply_to_message_id=asked.message_id,
        group_id=asked.group_id,
        created_at=asked.created_at,
        ttl=asked.ttl,
        message_type=asked.message_type,
    )
