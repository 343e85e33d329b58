"""Sorting a round's replies: which updates may enter the aggregate, and why the others may not."""

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import ArrayRecord, Message

from hansa.core.errors import UpdateRejectedError
from hansa.core.ids import MerchantId
from hansa.core.update import Arrays, check_update
from hansa.server.rounds.cohort import DEADLINE
from hansa.server.rounds.records import RecordArrays
from hansa.server.rounds.strategies import WEIGHT_KEY
from hansa.server.state.runs import Refusal

ARRAYS = "arrays"
METRICS = "metrics"


def numpy_arrays(record: ArrayRecord) -> Arrays:
    """Flower's arrays as NumPy's, in order."""
    return {name: np.array(array) for name, array in RecordArrays(record).items()}


class Intake:
    """Checks replies one by one, as they come; what is not valid is kept with its reason."""

    def __init__(self, names: Mapping[int, MerchantId], *, max_norm: float) -> None:
        self._names = names
        self._max_norm = max_norm
        self.valid: dict[MerchantId, Message] = {}
        """The valid replies."""
        self.refused: dict[MerchantId, Refusal] = {}
        """The reason for every other."""

    def take(self, reply: Message, model: Arrays) -> None:
        """Sorts a reply to a message that carried ``model``."""
        self.take_from(self._names[reply.metadata.src_node_id], reply, model)

    def take_from(self, merchant: MerchantId, reply: Message, model: Arrays) -> None:
        """The same for a reply whose sender is known."""
        if reply.has_error():
            reason, _, sentence = (reply.error.reason or "failed").partition(": ")
            self.refused[merchant] = Refusal(reason=reason, sentence=sentence)
            return
        try:
            _check_reply(reply, model, self._max_norm)
            self.valid[merchant] = reply
        except UpdateRejectedError as error:
            self.refused[merchant] = Refusal(reason="rejected", sentence=str(error))

    def close(self, asked: Iterable[MerchantId], why: Refusal) -> None:
        """Notes whose replies were not waited for."""
        for merchant in asked:
            if merchant not in self.valid:
                self.refused.setdefault(merchant, why)

    def excuse(self, why: Refusal) -> None:
        """Whose task was closed early is not at fault, though no answer came in time."""
        for merchant, refusal in self.refused.items():
            if refusal.reason == DEADLINE:
                self.refused[merchant] = why

    def in_order(self) -> list[Message]:
        """The valid replies by merchant's name, whatever order they came in: sums round alike."""
        return [self.valid[name] for name in sorted(self.valid)]


def _check_reply(reply: Message, model: Arrays, max_norm: float) -> None:
    content = reply.content
    if list(content) != [ARRAYS, METRICS] or list(content.array_records) != [ARRAYS]:
        raise UpdateRejectedError(
            "an update holds one record of arrays and one of metrics, nothing else"
        )
    if dict(content.metric_records.get(METRICS, {})) != {WEIGHT_KEY: 1}:
        raise UpdateRejectedError("an update's only metric is the constant weight 1")
    check_update(model, RecordArrays(content.array_records[ARRAYS]), max_norm=max_norm)
