import numpy as np
import pytest

from hansa.client.serving.latency import LatencyHistogram


def test_nothing_recorded_gives_zeros() -> None:
    figures = LatencyHistogram().figures()
    assert (figures.count, figures.p50_s, figures.p99_s) == (0, 0.0, 0.0)


def test_quantiles_are_never_too_low_and_at_most_ten_percent_too_high() -> None:
    durations = np.random.default_rng(0).lognormal(-5, 1, 10_000)
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.record(float(duration))
    figures = histogram.figures()
    assert figures.count == 10_000
    for share, figure in ((0.5, figures.p50_s), (0.99, figures.p99_s)):
        exact = float(np.quantile(durations, share, method="inverted_cdf"))
        assert exact <= figure * (1 + 1e-9)
        assert figure <= exact * 1.1 * (1 + 1e-9)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e6])
def test_durations_beyond_the_ends_are_counted(seconds: float) -> None:
    histogram = LatencyHistogram()
    histogram.record(seconds)
    assert histogram.figures().count == 1
