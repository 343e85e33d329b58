"""Two tasks beside the headline, the next purchase and search, shown as they are.

No claim is made with them.

* Next purchase: a held-out shopper's last newly bought item, from all that it bought before; full
  ranking over the shop's items that the shopper did not have. Recall@10.
* Search: the catalogue's category names as queries (the data hold no log of queries), relevant is
  every item of the category; nDCG@10. Titles often repeat the category's words, so words alone do
  well here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hansa.client.dataset import Dataset
from hansa.client.retrieval.lexical import LexicalIndex
from hansa.client.retrieval.serving_model import ServingModel
from hansa.core.cold import is_held_out
from hansa.core.metrics import ndcg_at_k, recall_at_k
from hansa.core.plan import TaskSpec

Floats = npt.NDArray[np.float32]
Scorer = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating]]

NEIGHBOURS = 3


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A shop's items with their embeddings by the public model and by the release."""

    dataset: Dataset
    base: Floats
    served: Floats
    model: ServingModel


def next_purchase(shelf: Shelf, task: TaskSpec) -> dict[str, list[float]]:
    """Each method's recall@10 for each held-out shopper with at least two distinct items."""
    scorers = _scorers(shelf, task)
    figures: dict[str, list[float]] = {name: [] for name in scorers}
    for pseudonym, bought in shelf.dataset.shoppers():
        firsts = np.array(list(dict.fromkeys(bought)), np.int64)
        if len(firsts) < 2 or not is_held_out(pseudonym, task):
            continue
        history, target = firsts[:-1], firsts[-1]
        candidates = np.setdiff1d(np.arange(len(shelf.base)), history)
        for name, scorer in scorers.items():
            figures[name].append(recall_at_k(scorer(history)[candidates], candidates == target, 10))
    return figures


def search(shelf: Shelf) -> dict[str, list[float]]:
    """Each method's nDCG@10 for each category name of the shop."""
    items = shelf.dataset.items
    leaves = np.array(
        [item.category_path[-1].lower() if item.category_path else "" for item in items]
    )
    queries = sorted(set(leaves) - {""})
    words, vectors = LexicalIndex([item.text for item in items]), shelf.model.embed(queries)
    figures: dict[str, list[float]] = {"lexical": [], "dense": [], "fused": []}
    for query, vector in zip(queries, vectors, strict=True):
        lexical, dense = words.scores(query), shelf.served @ vector
        scores = {
            "lexical": lexical,
            "dense": dense,
            "fused": lexical + shelf.model.dense_weight * dense,
        }
        for name, values in scores.items():
            figures[name].append(ndcg_at_k(values, leaves == query, 10))
    return figures


def pooled(shops: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """Means over all cases of all shops."""
    return {
        name: round(float(np.mean([value for shop in shops for value in shop[name]])), 4)
        for name in shops[0]
    }


def _scorers(shelf: Shelf, task: TaskSpec) -> dict[str, Scorer]:
    buyers = np.zeros(len(shelf.base))
    for pseudonym, bought in shelf.dataset.shoppers():
        if not is_held_out(pseudonym, task):
            buyers[list(set(bought))] += 1.0
    items = shelf.model.item_vectors(shelf.served)
    return {
        "popularity": lambda _history: buyers,
        "zero_shot": lambda history: shelf.base @ shelf.base[history].mean(axis=0),
        "nearest_history": lambda history: _nearest(shelf.base, history),
        "federated_dp": lambda history: items @ shelf.model.user_vector(shelf.served[history]),
    }


def _nearest(base: Floats, history: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
    return np.sort(base @ base[history].T, axis=1)[:, -NEIGHBOURS:].mean(axis=1)
