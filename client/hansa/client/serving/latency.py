"""How long answers took, in bounded memory; read on the site only."""

import math
import threading
from dataclasses import dataclass

import numpy as np

_FIRST_S = 1e-4
_GROWTH = 1.1
_BUCKETS = 128
"""From 0.1 ms in steps of 10 % to 18 s; what takes longer falls into the last one."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Figures since the start; the quantiles are at most 10 % too high, never too low."""

    count: int
    p50_s: float
    p99_s: float


class LatencyHistogram:
    """Counts of durations in buckets that grow by 10 %; safe to use from many threads."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self._counts = np.zeros(_BUCKETS, np.int64)
        self._lock = threading.Lock()

    def record(self, seconds: float) -> None:
        """Counts one duration."""
        bucket = math.ceil(math.log(max(seconds, _FIRST_S) / _FIRST_S, _GROWTH))
        with self._lock:
            self._counts[min(bucket, _BUCKETS - 1)] += 1

    def figures(self) -> Latency:
        """The count and the quantiles (seconds); all 0 before the first duration."""
        with self._lock:
            counts = self._counts.copy()
        return Latency(
            count=int(counts.sum()), p50_s=_quantile(counts, 0.5), p99_s=_quantile(counts, 0.99)
        )


def _quantile(counts: np.ndarray[tuple[int], np.dtype[np.int64]], share: float) -> float:
    """The upper edge of the bucket in which the ``share``-th duration lies."""
    total = int(counts.sum())
    if not total:
        return 0.0
    bucket = int(np.searchsorted(np.cumsum(counts), math.ceil(share * total)))
    return float(_FIRST_S * _GROWTH**bucket)
