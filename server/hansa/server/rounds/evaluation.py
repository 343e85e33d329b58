"""Quality as the merchants let it out: noised counts, summed over the federation."""

import math
import time
from collections.abc import Callable, Mapping

from flwr.app import ConfigRecord, Message, RecordDict
from pydantic import BaseModel, ConfigDict

from hansa.core.ids import MerchantId
from hansa.core.plan import RunPlan
from hansa.core.update import Arrays
from hansa.server.rounds.grid import GrpcGrid
from hansa.server.rounds.intake import ARRAYS, METRICS
from hansa.server.rounds.records import array_record

HITS = "recall-at-10-sum"
SHOPPERS = "shoppers"

_LOOK_S = 0.2
_TAIL = 8.0
"""Honest noise stays within so many standard deviations but for one count in 10 ** 15."""
_LARGEST_MERCHANT = 100.0
"""By so much a merchant may exceed the number of shoppers for which the plan was made."""


class NoisedQuality(BaseModel):
    """The federation's recall@10 over held-out shoppers, as far as the noise lets it be known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    merchants: int
    """Merchants whose counts are in the sums."""
    recall_at_10: float | None
    """Noised sum of recalls over the noised number of shoppers; None if that is not positive, or
    not finite."""
    shoppers_noised: float
    """Sum of the merchants' noised counts of held-out shoppers."""
    noise_std: float
    """Standard deviation of the noise in each of the two sums, in shoppers."""
    shoppers_noised_by_merchant: dict[str, float]
    """Each merchant's noised count."""
    refused: dict[str, str] = {}
    """Merchants whose counts are not in the sums, each with the reason."""


def evaluate(
    grid: GrpcGrid, plan: RunPlan, model: Arrays, go_on: Callable[[], None]
) -> NoisedQuality:
    """Asks every merchant online for its noised counts, once, and sums them.

    It waits for the plan's quorum to come online, but goes on without one after the deadline. Who
    was asked before the server broke off is asked, and waited for, again: it has paid.

    Args:
        grid: the way to the merchants.
        plan: the run's plan.
        model: the arrays to be judged.
        go_on: raises when the run is to end; partial sums are never returned.
    """
    nodes = _whom(grid, plan, go_on)
    record = RecordDict(
        {
            ARRAYS: array_record(model),
            "config": ConfigRecord({"server-round": plan.federation.rounds}),
        }
    )
    messages = [Message(record, dst_node_id=node, message_type="evaluate") for node in nodes]
    replies = grid.send_and_receive(messages, timeout=plan.federation.deadline_s)
    go_on()
    names = grid.names()
    return pool({names[reply.metadata.src_node_id]: _counts(reply) for reply in replies}, plan)


def _whom(grid: GrpcGrid, plan: RunPlan, go_on: Callable[[], None]) -> list[int]:
    until = time.monotonic() + plan.federation.deadline_s
    while True:
        go_on()
        grid.begin(plan.federation.rounds, "evaluate")
        nodes = {*grid.asked_before(), *grid.get_node_ids()}
        if len(nodes) >= plan.federation.quorum or time.monotonic() > until:
            return sorted(nodes)
        time.sleep(_LOOK_S)


Counts = tuple[float, float]
"""A noised sum of recalls and a noised number of shoppers."""


def pool(answers: Mapping[MerchantId, Counts | str], plan: RunPlan) -> NoisedQuality:
    """Sums the merchants' counts; independent noises add their variances.

    Args:
        answers: each merchant's counts, or the reason why it gave none. Counts that no honest
            merchant can send under the plan's noise are refused here.
        plan: says how much noise there is, and how many shoppers a merchant has.
    """
    judged = {name: _plausible(answer, plan) for name, answer in answers.items()}
    counts = {name: pair for name, pair in judged.items() if not isinstance(pair, str)}
    hits = sum(pair[0] for pair in counts.values())
    shoppers = sum(pair[1] for pair in counts.values())
    is_ratio = math.isfinite(hits) and math.isfinite(shoppers) and shoppers > 0.0
    return NoisedQuality(
        merchants=len(counts),
        recall_at_10=hits / shoppers if is_ratio else None,
        shoppers_noised=shoppers,
        shoppers_noised_by_merchant={str(name): pair[1] for name, pair in counts.items()},
        noise_std=_noise_std(plan) * math.sqrt(len(counts)),
        refused={str(name): why for name, why in judged.items() if isinstance(why, str)},
    )


def _noise_std(plan: RunPlan) -> float:
    """Of each of a merchant's two numbers."""
    return math.sqrt(2.0) * (plan.privacy.evaluation_noise_multiplier or 0.0)


def _plausible(answer: Counts | str, plan: RunPlan) -> Counts | str:
    """The counts, or why no recall sum between 0 and the shoppers can have been noised to them."""
    if isinstance(answer, str):
        return answer
    hits, shoppers = answer
    tail = _TAIL * _noise_std(plan)
    made_for = plan.privacy.expected_shoppers / plan.privacy.sampling_rate
    if not -tail <= shoppers <= _LARGEST_MERCHANT * made_for + tail:
        return f"rejected: {shoppers:g} noised shoppers are out of the plan's bounds"
    # Both numbers are noised: their difference carries sqrt(2) times the noise of one.
    if not -tail <= hits <= shoppers + math.sqrt(2.0) * tail:
        return f"rejected: {hits:g} noised hits of {shoppers:g} noised shoppers cannot be"
    return answer


def _counts(reply: Message) -> Counts | str:
    """The two noised numbers, or why there are none."""
    if reply.has_error():
        return reply.error.reason or "failed"
    values: Mapping[str, object] = reply.content.metric_records.get(METRICS, {})
    hits, shoppers = values.get(HITS), values.get(SHOPPERS)
    if not isinstance(hits, float) or not isinstance(shoppers, float):
        return f"rejected: the counts are two numbers, {HITS!r} and {SHOPPERS!r}"
    return hits, shoppers
