"""Asks each shop's own service real questions, and measures how fast it answers."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import show
from federation import Federation, Merchant

from hansa.client.dataset import Dataset
from hansa.client.examples import make_examples
from hansa.client.shop import connect
from hansa.client.site import Site
from hansa.core.plan import TaskSpec

CALLS = 200
EVERYDAY = {
    "harbour": "frozen pizza",
    "market": "ice cream",
    "station": "shampoo",
    "village": "food for my cat",
}
"""What a shopper of each shop types in the demo; the data hold no log of queries."""


def ask_shops(federation: Federation, task: TaskSpec) -> list[dict[str, Any]]:
    """A query and a held-out shopper's history for each shop, by the shop's own command."""
    asked = []
    for merchant in federation.merchants:
        query = EVERYDAY[merchant.name]
        found = federation.ask(merchant, "search", query, "--limit", "3")
        history = histories(merchant, task)[0][-8:]
        recommended = federation.ask(merchant, "recommend", *history, "--limit", "3", "--only-new")
        show.answers(f"{merchant.name}: search {query!r}", found)
        show.answers(f"{merchant.name}: newly listed items for a held-out shopper", recommended)
        asked += [
            {"merchant": merchant.name, "query": query, **found},
            {"merchant": merchant.name, **recommended},
        ]
    return asked


def queries(merchant: Merchant) -> list[str]:
    """The catalogue's category names, words that shoppers use; the data hold no log of queries."""
    items = Dataset.load(Site(merchant.site).dataset).items
    return sorted({item.category_path[-1].lower() for item in items if item.category_path})


def histories(merchant: Merchant, task: TaskSpec) -> list[list[str]]:
    """Item ids that held-out shoppers bought, each without the items that no training saw."""
    dataset = Dataset.load(Site(merchant.site).dataset)
    examples = make_examples(dataset.shoppers(), [item.key for item in dataset.items], task)
    ids = [item.item_id for item in dataset.items]
    return [[ids[place] for place in case.history] for case in examples.cases]


def measure_latency(federation: Federation, task: TaskSpec) -> dict[str, float]:
    """Median and 99th percentile of both calls over all shops, one at a time, in milliseconds."""
    search, recommend = [], []
    with show.step("shops: answer real queries and histories", len(federation.merchants)) as bar:
        for merchant in federation.merchants:
            searches, recommendations = _time_shop(merchant, task)
            search += searches
            recommend += recommendations
            bar.advance()
    return {**_percentiles("search", search), **_percentiles("recommend", recommend)}


def _time_shop(merchant: Merchant, task: TaskSpec) -> tuple[list[float], list[float]]:
    words, baskets = queries(merchant), histories(merchant, task)
    with connect(Site(merchant.site)) as shop:
        return (
            _timed(lambda number: shop.search(words[number % len(words)], 10)),
            _timed(lambda number: shop.recommend(baskets[number % len(baskets)][-50:], 10)),
        )


def _timed(call: Callable[[int], Any]) -> list[float]:
    times = []
    for number in range(CALLS):
        started = time.perf_counter()
        call(number)
        times.append(1000 * (time.perf_counter() - started))
    return times


def _percentiles(name: str, times: list[float]) -> dict[str, float]:
    middle, high = np.percentile(times, [50, 99])
    return {f"{name}_p50_ms": round(float(middle), 2), f"{name}_p99_ms": round(float(high), 2)}
