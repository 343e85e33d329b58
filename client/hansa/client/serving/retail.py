"""The Retail service: checks what a shop's program sends, asks the index, translates errors.

Queries and item ids are a shopper's traces: they are never logged, and no error repeats them.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from hansa.client.retrieval.index import Hit
from hansa.client.serving.latency import Latency, LatencyHistogram
from hansa.core.errors import HansaError, InvalidInputError, NotFoundError
from hansa.core.ids import ReleaseVersion
from hansa.protos.v1 import retail_pb2, retail_pb2_grpc

_log = logging.getLogger(__name__)

MAX_QUERY = 500  # characters
MAX_HISTORY = 1000  # items
MAX_ITEM_ID = 128  # characters
MAX_LIMIT = 100
DEFAULT_LIMIT = 10

_STATUS: dict[type[HansaError], grpc.StatusCode] = {
    InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
}


class RetailIndex(Protocol):
    """What the service needs of an index, such as ``retrieval.index.CatalogueIndex``."""

    def search(self, query: str, limit: int) -> list[Hit]:
        """The best items for a text."""
        ...

    def recommend(self, history: Sequence[str], limit: int, *, only_new: bool = False) -> list[Hit]:
        """The best items for a history; items in it are not answered."""
        ...


@dataclass(frozen=True, kw_only=True)
class ActiveRelease:
    """An index with the version of the release that it was built with; 0 is the base model."""

    index: RetailIndex
    version: ReleaseVersion


class RetailService(retail_pb2_grpc.RetailServicer):
    """Answers from the release that is active when a request begins."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """``clock`` gives monotonic seconds. Until the first ``activate`` calls are UNAVAILABLE."""
        self._clock = clock
        self._active: ActiveRelease | None = None
        self._latency = {name: LatencyHistogram() for name in ("Search", "Recommend")}

    def activate(self, release: ActiveRelease) -> None:
        """Swaps the release: requests under way end on the old one, later ones get the new one.

        It is one assignment, so no request sees an index of one release and the version of another.
        """
        self._active = release

    @property
    def active(self) -> ActiveRelease | None:
        """The release that answers now."""
        return self._active

    def latency(self) -> dict[str, Latency]:
        """Figures of each method's successful answers since the start, for the site's own eyes."""
        return {name: histogram.figures() for name, histogram in self._latency.items()}

    def Search(
        self, request: retail_pb2.SearchRequest, context: grpc.ServicerContext
    ) -> retail_pb2.Answers:
        """Items for a text query."""

        def work(index: RetailIndex) -> list[Hit]:
            _check_query(request.query)
            return index.search(request.query, _limit(request.limit))

        return self._answer("Search", work, context)

    def Recommend(
        self, request: retail_pb2.RecommendRequest, context: grpc.ServicerContext
    ) -> retail_pb2.Answers:
        """Items for a shopper's history; ids that the catalogue does not know are ignored."""

        def work(index: RetailIndex) -> list[Hit]:
            _check_history(request.item_ids)
            limit = _limit(request.limit)
            return index.recommend(list(request.item_ids), limit, only_new=request.only_new)

        return self._answer("Recommend", work, context)

    def _answer(
        self,
        method: str,
        work: Callable[[RetailIndex], list[Hit]],
        context: grpc.ServicerContext,
    ) -> retail_pb2.Answers:
        started = self._clock()
        release = self._active
        if release is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "no release is active yet; try again soon")
        _check_deadline(context)
        hits = _translated(lambda: work(release.index), method, context)
        self._latency[method].record(self._clock() - started)
        return retail_pb2.Answers(items=map(_answer, hits), release_version=release.version)


def _translated(
    work: Callable[[], list[Hit]], method: str, context: grpc.ServicerContext
) -> list[Hit]:
    """Runs the work; what it raises becomes a status that repeats nothing of the request."""
    try:
        return work()
    except HansaError as error:
        codes = (code for kind, code in _STATUS.items() if isinstance(error, kind))
        context.abort(next(codes, grpc.StatusCode.INTERNAL), str(error))
    except Exception as error:  # noqa: BLE001 - the seam: gRPC would send the message to the caller
        _log.error("%s failed with %s", method, type(error).__name__)
        context.abort(grpc.StatusCode.INTERNAL, "the answer failed; see the site's log")


def _check_deadline(context: grpc.ServicerContext) -> None:
    """Work that nobody waits for any more is not begun."""
    if _is_over(context.time_remaining()):
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed in the queue")


def _is_over(remaining_s: float | None) -> bool:
    """A caller without a deadline has None."""
    return remaining_s is not None and remaining_s <= 0


def _check_query(query: str) -> None:
    if not query.strip():
        raise InvalidInputError("the query is empty; give at least one word")
    if len(query) > MAX_QUERY:
        raise InvalidInputError(f"a query has at most {MAX_QUERY} characters; shorten it")


def _check_history(item_ids: Sequence[str]) -> None:
    if not 1 <= len(item_ids) <= MAX_HISTORY:
        raise InvalidInputError(f"a history has 1 to {MAX_HISTORY} item ids")
    if not all(1 <= len(item_id) <= MAX_ITEM_ID for item_id in item_ids):
        raise InvalidInputError(f"an item id has 1 to {MAX_ITEM_ID} characters")


def _limit(limit: int) -> int:
    if limit > MAX_LIMIT:
        raise InvalidInputError(f"a limit is 1 to {MAX_LIMIT}, or 0 for {DEFAULT_LIMIT}")
    return limit or DEFAULT_LIMIT


def _answer(hit: Hit) -> retail_pb2.Answer:
    """An item without a price is sent with price 0, which no item can have."""
    return retail_pb2.Answer(
        item_id=hit.item_id, title=hit.title, price=hit.price or 0.0, score=hit.score
    )
