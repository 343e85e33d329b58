"""Sorting a round's replies: which updates may enter the aggregate, and why the others may not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message

from hansa.core.errors import UpdateRejectedError
from hansa.core.ids import MerchantId
from hansa.core.update import Arrays, check_update
from hansa.server.rounds.strategies import WEIGHT_KEY
from hansa.server.state.runs import Refusal

ARRAYS = "arrays"
METRICS = "metrics"


@dataclass(frozen=True, kw_only=True)
class Intake:
    """The valid replies by merchant, and the reason for every other."""

    valid: dict[MerchantId, Message]
    refused: dict[MerchantId, Refusal]


def numpy_arrays(record: ArrayRecord) -> Arrays:
    """Flower's arrays as NumPy's, in order."""
    return {name: array.numpy() for name, array in record.items()}


def sort_replies(
    replies: Iterable[Message], names: Mapping[int, MerchantId], model: Arrays, *, max_norm: float
) -> Intake:
    """Checks each reply against the round's model."""
    valid: dict[MerchantId, Message] = {}
    refused: dict[MerchantId, Refusal] = {}
    for reply in replies:
        merchant = names[reply.metadata.src_node_id]
        if reply.has_error():
            reason, _, sentence = (reply.error.reason or "failed").partition(": ")
            refused[merchant] = Refusal(reason=reason, sentence=sentence)
            continue
        try:
            _check_reply(reply, model, max_norm)
            valid[merchant] = reply
        except UpdateRejectedError as error:
            refused[merchant] = Refusal(reason="rejected", sentence=str(error))
    return Intake(valid=valid, refused=refused)


def _check_reply(reply: Message, model: Arrays, max_norm: float) -> None:
    content = reply.content
    if list(content) != [ARRAYS, METRICS] or list(content.array_records) != [ARRAYS]:
        raise UpdateRejectedError(
            "an update holds one record of arrays and one of metrics, nothing else"
        )
    if dict(content.metric_records.get(METRICS, {})) != {WEIGHT_KEY: 1}:
        raise UpdateRejectedError("an update's only metric is the constant weight 1")
    check_update(model, numpy_arrays(content.array_records[ARRAYS]), max_norm=max_norm)
