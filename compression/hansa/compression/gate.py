"""The gate of a release: a candidate outside the plan's limits is not released."""

from hansa.compression.fidelity import Fidelity
from hansa.core.errors import ReleaseGateError
from hansa.core.plan import CompressionSpec


def gate(figures: Fidelity, limits: CompressionSpec) -> None:
    """Lets a candidate pass, or names every limit that it breaks with the figure that broke it.

    Raises:
        ReleaseGateError: at least one limit is broken.
    """
    broken = [sentence for holds, sentence in _judgements(figures, limits) if not holds]
    if broken:
        raise ReleaseGateError(
            f"the candidate is not released: {'; '.join(broken)}; "
            "train further, keep more of the model in fp32, or loosen the plan's limits"
        )


def _judgements(figures: Fidelity, limits: CompressionSpec) -> list[tuple[bool, str]]:
    """Each limit as "it holds" (never true of a NaN) and the sentence for when it does not."""
    return [
        (
            figures.size_bytes <= limits.max_size_bytes,
            f"size_bytes {figures.size_bytes} is above max_size_bytes {limits.max_size_bytes}",
        ),
        (
            figures.mean_cosine >= limits.min_cosine,
            f"mean_cosine {figures.mean_cosine:.4f} is below min_cosine {limits.min_cosine}",
        ),
        (
            figures.ndcg_loss <= limits.max_ndcg_loss,
            f"ndcg_loss {figures.ndcg_loss:.4f} is above max_ndcg_loss {limits.max_ndcg_loss}",
        ),
    ]
