import pytest

from hansa.compression.fidelity import Fidelity
from hansa.compression.gate import gate
from hansa.core.errors import ReleaseGateError
from hansa.core.plan import CompressionSpec

LIMITS = CompressionSpec(max_size_bytes=100, min_cosine=0.98, max_ndcg_loss=0.05)
GOOD = Fidelity(
    texts=11,
    mean_cosine=0.98,
    p1_cosine=0.9,
    ndcg_loss=0.05,
    size_bytes=100,
    teacher_size_bytes=400,
)


def test_a_candidate_on_the_limits_passes() -> None:
    gate(GOOD, LIMITS)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"size_bytes": 101}, "size_bytes 101 is above max_size_bytes 100"),
        ({"mean_cosine": 0.9799}, "mean_cosine 0.9799 is below min_cosine 0.98"),
        ({"ndcg_loss": 0.0501}, "ndcg_loss 0.0501 is above max_ndcg_loss 0.05"),
    ],
)
def test_one_broken_limit_is_named_with_its_figure(change: dict[str, float], sentence: str) -> None:
    with pytest.raises(ReleaseGateError) as caught:
        gate(GOOD.model_copy(update=change), LIMITS)
    assert sentence in str(caught.value)
    assert str(caught.value).count(" is above ") + str(caught.value).count(" is below ") == 1


def test_every_broken_limit_is_named() -> None:
    bad = GOOD.model_copy(update={"size_bytes": 101, "mean_cosine": 0.5, "ndcg_loss": 0.5})
    with pytest.raises(ReleaseGateError, match=r"size_bytes 101.*mean_cosine 0\.5.*ndcg_loss 0\.5"):
        gate(bad, LIMITS)


def test_a_figure_that_is_no_number_never_passes() -> None:
    nan = float("nan")
    broken = GOOD.model_copy(update={"mean_cosine": nan, "ndcg_loss": nan})
    with pytest.raises(ReleaseGateError, match=r"mean_cosine nan.*ndcg_loss nan"):
        gate(broken, LIMITS)
