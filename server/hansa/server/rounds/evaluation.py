"""Quality as the merchants let it out: noised counts, summed over the federation."""

import math
from collections.abc import Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from pydantic import BaseModel, ConfigDict

from hansa.core.ids import MerchantId
from hansa.core.plan import RunPlan
from hansa.core.update import Arrays
from hansa.server.rounds.grid import GrpcGrid
from hansa.server.rounds.intake import ARRAYS, METRICS

HITS = "recall-at-10-sum"
SHOPPERS = "shoppers"


class NoisedQuality(BaseModel):
    """The federation's recall@10 over held-out shoppers, as far as the noise lets it be known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    merchants: int
    """Merchants that answered."""
    recall_at_10: float | None
    """Noised sum of recalls over the noised number of shoppers; None if that is not positive."""
    shoppers_noised: float
    """Sum of the merchants' noised counts of held-out shoppers."""
    noise_std: float
    """Standard deviation of the noise in each of the two sums, in shoppers."""
    shoppers_noised_by_merchant: dict[str, float]
    """Each merchant's noised count."""


def evaluate(grid: GrpcGrid, plan: RunPlan, model: Arrays) -> NoisedQuality:
    """Asks every merchant online for its noised counts, once, and sums them."""
    grid.begin(plan.federation.rounds, "evaluate")
    record = RecordDict(
        {
            ARRAYS: ArrayRecord({name: Array(array) for name, array in model.items()}),
            "config": ConfigRecord({"server-round": plan.federation.rounds}),
        }
    )
    messages = [
        Message(record, dst_node_id=node, message_type="evaluate") for node in grid.get_node_ids()
    ]
    replies = grid.send_and_receive(messages, timeout=plan.federation.deadline_s)
    names = grid.names()
    counts = {names[reply.metadata.src_node_id]: _counts(reply) for reply in replies}
    return pool({name: pair for name, pair in counts.items() if pair is not None}, plan)


def pool(counts: Mapping[MerchantId, tuple[float, float]], plan: RunPlan) -> NoisedQuality:
    """Sums (noised recall sum, noised shoppers); independent noises add their variances."""
    hits = sum(pair[0] for pair in counts.values())
    shoppers = sum(pair[1] for pair in counts.values())
    multiplier = plan.privacy.evaluation_noise_multiplier or 0.0
    return NoisedQuality(
        merchants=len(counts),
        recall_at_10=hits / shoppers if shoppers > 0 else None,
        shoppers_noised=shoppers,
        shoppers_noised_by_merchant={str(name): pair[1] for name, pair in counts.items()},
        noise_std=multiplier * math.sqrt(2 * len(counts)),
    )


def _counts(reply: Message) -> tuple[float, float] | None:
    """The two noised numbers; a reply that holds anything but finite numbers does not count."""
    if reply.has_error():
        return None
    values: Mapping[str, object] = reply.content.metric_records.get(METRICS, {})
    hits, shoppers = values.get(HITS), values.get(SHOPPERS)
    if not isinstance(hits, float) or not isinstance(shoppers, float):
        return None
    return (hits, shoppers) if math.isfinite(hits) and math.isfinite(shoppers) else None
