"""Answers on their way out: with the message where they are small, as a blob where they are not."""

import logging
from collections.abc import Callable

from hansa.client.node.outbox import Letter, Outbox
from hansa.client.node.wire import Wire
from hansa.core.errors import ConflictError, InvalidInputError, TransportError
from hansa.core.ids import TaskId
from hansa.protos.v1 import federation_pb2 as pb

_log = logging.getLogger(__name__)


class Delivery:
    """Delivers finished answers over one session."""

    def __init__(self, wire: Wire, outbox: Outbox, entries: Callable[[], bytes]) -> None:
        """``entries`` gives the ledger's lines that the server does not hold yet."""
        self._wire = wire
        self._outbox = outbox
        self._entries = entries

    def deliver(self, letter: Letter) -> None:
        """Sends what the outbox keeps or holds, and closes its task.

        Raises:
            ConflictError: another client of the same merchant took over.
            TransportError: the server did not take it; the next attempt goes on from there.
        """
        try:
            if not self._with_message(letter, self._outbox.small(letter)):
                self._wire.upload(self._outbox, letter)
                self.conclude(letter)
        except InvalidInputError as error:
            if self._outbox.is_intact(letter):
                raise TransportError(f"the server did not take the update: {error}") from error
            self._give_up(letter)

    def conclude(self, letter: Letter) -> None:
        """Closes the task of a letter whose bytes the server has, or never will have.

        Raises:
            ConflictError: as for ``deliver``.
            InvalidInputError: the server will never take it.
        """
        acknowledgement = self._wire.complete(letter, self._entries())
        if acknowledgement != pb.ACKNOWLEDGEMENT_MISSING_BLOB:
            self._close(letter, acknowledgement)

    def _with_message(self, letter: Letter, content: bytes) -> bool:
        """False where it must be uploaded: there is too much, or the server is of version 1.0."""
        if not content:
            return False
        acknowledgement = self._wire.complete(letter, self._entries(), content)
        if acknowledgement == pb.ACKNOWLEDGEMENT_MISSING_BLOB:
            return False
        self._close(letter, acknowledgement)
        return True

    def _close(self, letter: Letter, acknowledgement: pb.Acknowledgement) -> None:
        _log.info("task %s: %s", letter.task_id, pb.Acknowledgement.Name(acknowledgement))
        if acknowledgement == pb.ACKNOWLEDGEMENT_FENCED:
            raise ConflictError("another client of this merchant took over; stop one of the two")
        self._outbox.drop(TaskId(letter.task_id))

    def _give_up(self, letter: Letter) -> None:
        """An update that the disk has damaged cannot be made again: its budget is spent."""
        _log.error("the answer to task %s is lost: the disk has damaged it", letter.task_id)
        self._outbox.drop(TaskId(letter.task_id))
        refusal = pb.Refusal(reason=pb.REFUSAL_REASON_FAILED, sentence="the disk lost the update")
        self._wire.refuse(letter.task_id, refusal, self._entries())
