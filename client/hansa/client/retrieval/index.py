"""The merchant's own catalogue, ready to be searched and recommended from.

An index is built once for one release and one catalogue and never changes; a new release or
catalogue gets a new index. It is therefore safe to read from many threads at once. Items that are
not available are never answered, but still count as history.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hansa.client.retrieval.lexical import LexicalIndex
from hansa.client.retrieval.scan import ExactScan
from hansa.core.errors import InvalidInputError, NotFoundError

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

MAX_ITEMS = 100_000
"""Above this an exact scan is too slow to answer a shopper."""

MIN_CANDIDATES = 200
"""Search fuses the best so many of each half, and at least four times the limit."""

_SAMPLED_QUERIES = 200


class ListedItem(Protocol):
    """What the index needs of a catalogue's item (``hansa.core.catalogue.Item`` is one)."""

    @property
    def item_id(self) -> str:
        """The shop's own id."""
        ...

    @property
    def title(self) -> str:
        """As the shopper reads it."""
        ...

    @property
    def price(self) -> float | None:
        """In the catalogue's currency; absent where the shop gives none."""
        ...

    @property
    def text(self) -> str:
        """What is embedded and searched."""
        ...

    @property
    def available(self) -> bool:
        """Whether it may be answered."""
        ...


class RetrievalModel(Protocol):
    """What the index needs of a release, such as ``serving_model.ServingModel``."""

    @property
    def dense_weight(self) -> float:
        """Weight of the cosine beside the lexical score in search."""
        ...

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit vectors ``(n, dim)`` in the texts' order."""
        ...

    def user_vector(self, history: Floats) -> Floats:
        """The user vector ``(k,)`` of a history's item embeddings ``(items, dim)``."""
        ...

    def item_vectors(self, embeddings: Floats) -> Floats:
        """The item vectors ``(n, k)`` of item embeddings ``(n, dim)``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One answered item; ``score`` is comparable within one answer only."""

    item_id: str
    title: str
    price: float | None
    score: float


@dataclass(frozen=True, kw_only=True)
class IndexRecall:
    """Recall@10 of the int8 scans against exact float, on sampled queries."""

    search: float
    recommend: float


class CatalogueIndex:
    """Search and recommendation over one catalogue with one release."""

    def __init__(
        self,
        items: Sequence[ListedItem],
        model: RetrievalModel,
        embeddings: Floats,
        *,
        rng: np.random.Generator,
        new_item_ids: Collection[str] = (),
        threads: int = 1,
    ) -> None:
        """Builds the index and checks its recall.

        Args:
            items: 1 to 100,000 items with different ids.
            model: The release that answers.
            embeddings: ``(len(items), dim)``: the model's embeddings of the items' texts.
            rng: Draws the queries of the recall check.
            new_item_ids: Items that no model was trained on; others than the catalogue's are
                ignored.
            threads: CPU threads that one scan may use.

        Raises:
            InvalidInputError: too many items or none, an id that occurs twice, embeddings that do
                not fit the items or are not finite.
        """
        _check_catalogue(items, embeddings)
        self._model = model
        self._embeddings = np.ascontiguousarray(embeddings, np.float32)
        self._ids = [item.item_id for item in items]
        self._titles = [item.title for item in items]
        self._prices = [item.price for item in items]
        self._row_of = {item_id: row for row, item_id in enumerate(self._ids)}
        shown = np.array([item.available for item in items], bool)
        new = np.isin(self._ids, list(new_item_ids))
        vectors = model.item_vectors(self._embeddings)
        if not np.isfinite(vectors).all():
            raise InvalidInputError("the model's item vectors are not finite; refuse the release")
        self._lexical = LexicalIndex([item.text for item in items])
        self._search = _Listing(self._embeddings, np.flatnonzero(shown), threads)
        self._all = _Listing(vectors, np.flatnonzero(shown), threads)
        self._new = _Listing(vectors, np.flatnonzero(shown & new), threads)
        self._shown = shown
        self._recall = self._check_recall(rng)

    @property
    def recall(self) -> IndexRecall:
        """What the check at the build found; a scan below 0.98 runs in float instead."""
        return self._recall

    def __len__(self) -> int:
        """How many items the catalogue has."""
        return len(self._ids)

    def search(self, query: str, limit: int) -> list[Hit]:
        """The best ``limit`` available items for a text, best first.

        A score is ``bm25 / max bm25 + dense_weight * cosine``, exact for the best 200 items of
        each half; an item outside both is not answered. Ties go to the earlier item.

        Raises:
            InvalidInputError: the query or the limit is empty.
        """
        _check_limit(limit)
        if not query.strip():
            raise InvalidInputError("the query is empty; give at least one word")
        vector = self._model.embed([query])[0]
        lexical = np.where(self._shown, self._lexical.scores(query), 0.0)
        count = max(MIN_CANDIDATES, 4 * limit)
        rows = np.union1d(self._search.top(vector, count)[0], _best_positive(lexical, count))
        scores = lexical[rows] + self._model.dense_weight * (self._embeddings[rows] @ vector)
        order = np.lexsort((rows, -scores))[:limit]
        return self._hits(rows[order], scores[order])

    def recommend(
        self,
        history: Sequence[str],
        limit: int,
        *,
        only_new: bool = False,
        exclude_seen: bool = True,
    ) -> list[Hit]:
        """The best ``limit`` available items for a shopper's history, best first.

        Each known item counts once; ids that the catalogue does not know are ignored.

        Raises:
            InvalidInputError: the limit or the history is empty.
            NotFoundError: the catalogue knows none of the ids.
        """
        _check_limit(limit)
        seen = self._known_rows(history)
        user = self._model.user_vector(self._embeddings[seen])
        excluded = seen if exclude_seen else seen[:0]
        listing = self._new if only_new else self._all
        rows, scores = listing.top(user, limit + len(excluded))
        kept = np.flatnonzero(~np.isin(rows, excluded))[:limit]
        return self._hits(rows[kept], scores[kept])

    def _known_rows(self, history: Sequence[str]) -> Rows:
        if not history:
            raise InvalidInputError("the history is empty; give at least one item id")
        known = dict.fromkeys(self._row_of[one] for one in history if one in self._row_of)
        if not known:
            raise NotFoundError("the catalogue knows none of these items; check the ids")
        return np.fromiter(known, np.intp)

    def _hits(self, rows: Rows, scores: npt.NDArray[np.floating]) -> list[Hit]:
        return [
            Hit(
                item_id=self._ids[row],
                title=self._titles[row],
                price=self._prices[row],
                score=float(score),
            )
            for row, score in zip(rows, scores, strict=True)
        ]

    def _check_recall(self, rng: np.random.Generator) -> IndexRecall:
        """Queries are sampled items, blurred a little for search so that none finds itself only."""
        count = min(_SAMPLED_QUERIES, len(self))
        rows = rng.choice(len(self), count, replace=False)
        sampled = self._embeddings[rows]
        noise = rng.standard_normal(sampled.shape).astype(np.float32)
        queries = sampled + noise * np.float32(0.3 / np.sqrt(sampled.shape[1]))
        users = np.stack([self._model.user_vector(one[None]) for one in sampled])
        self._new.check_recall(users)
        return IndexRecall(
            search=self._search.check_recall(queries), recommend=self._all.check_recall(users)
        )


class _Listing:
    """A scan over some rows of the catalogue that answers with the catalogue's row numbers."""

    def __init__(self, vectors: Floats, rows: Rows, threads: int) -> None:
        self._rows = rows
        self._scan = ExactScan(vectors[rows], threads=threads)

    def top(self, query: Floats, limit: int) -> tuple[Rows, Floats]:
        found, scores = self._scan.top(query, limit)
        return self._rows[found], scores

    def check_recall(self, queries: Floats) -> float:
        return self._scan.check_recall(queries)


def _best_positive(scores: npt.NDArray[np.floating], count: int) -> Rows:
    """Rows of the best ``count`` scores above 0, in no order."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) <= count:
        return rows
    return rows[np.argpartition(scores[rows], -count)[-count:]]


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise InvalidInputError("the limit is 1 or more")


def _check_catalogue(items: Sequence[ListedItem], embeddings: Floats) -> None:
    if not items:
        raise InvalidInputError("the catalogue is empty; import items first")
    if len(items) > MAX_ITEMS:
        raise InvalidInputError(
            f"the catalogue has {len(items)} items, above {MAX_ITEMS}, the most that this index "
            "can scan in time; split the catalogue"
        )
    if len({item.item_id for item in items}) != len(items):
        raise InvalidInputError("an item id occurs twice in the catalogue; make ids unique")
    if embeddings.ndim != 2 or len(embeddings) != len(items):
        raise InvalidInputError(f"{len(items)} items need as many embeddings; embed them again")
    if not np.isfinite(embeddings).all():
        raise InvalidInputError("an item's embedding is not finite; embed the catalogue again")
