"""How far two accountants that share no code lie apart, and what a reservation's decision costs.

Claim: over a spread of events of every kind that both can price, |PRV - PLD| is at most 0.015 and
RDP is the largest of the three. A reservation in a book of 1,000 reservations is decided in less
than 0.2 s of CPU time, be the cap near or far, once the process knows the book's mechanisms. The
recorded figures of the literature are met.

The peer is Opacus' own PRV accountant, a third implementation, where it is installed.

Command:
    python -m benchmarks.privacy_parts.accounting

Expected: a gap of 0.009 to 0.014. Far below the cap a decision takes less than 0.001 s. At the cap
the first one of a process takes about 0.03 s for each kind of mechanism in the book (each plan has
its own), and each later one 0.01 to 0.05 s.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from typing import Final

from benchmarks.federation_parts.measure import emit, note
from hansa.audit.prv import epsilon_prv
from hansa.core.privacy.accounting import epsilon_pld, epsilon_rdp, exceeding
from hansa.core.privacy.events import (
    BandedGaussian,
    DistributedGaussian,
    Gaussian,
    PoissonGaussian,
    PrivacyEvent,
    RepeatAndSelect,
    merge,
    times,
)

DELTA: Final = 1e-5
BOOK: Final = 1000
"""Reservations in the book."""


def poisson(rate: float, noise: float, steps: int) -> PoissonGaussian:
    """A run of sampled steps."""
    return PoissonGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps)


def banded(bands: int, noise: float, steps: int, rounds: int) -> BandedGaussian:
    """Rounds of banded noise."""
    return BandedGaussian(
        bands=bands,
        noise_multiplier=noise,
        steps=steps,
        participations=-(-steps // bands),
        releases=rounds,
    )


def distributed(rate: float, noise: float, steps: int) -> DistributedGaussian:
    """Steps under one noise draw."""
    return DistributedGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps, honest=6)


RECORDED: Final = (
    (poisson(0.01, 1.0, 1000), 1.8289),
    (poisson(0.01, 0.6, 1000), 7.434),
    (poisson(0.1, 1.0, 100), 7.047),
    (poisson(0.25, 1.5, 60), 7.337),
    (poisson(1.0, 4.0, 30), 6.326),
)
"""Events, and the epsilon by PLD that was recorded for them."""

SPREAD: Final[tuple[tuple[PrivacyEvent, ...], ...]] = (
    *((event,) for event, _ in RECORDED),
    (poisson(0.001, 2.0, 100_000),),
    (poisson(0.5, 0.3, 50),),
    tuple(poisson(0.01 + i / 1000, 1.0 + i / 20, 50) for i in range(20)),
    (Gaussian(noise_multiplier=5.0, releases=3),),
    (banded(8, 6.0, 64, 10), Gaussian(noise_multiplier=10.0, releases=1)),
    (distributed(0.099, 0.731, 30),),
    (distributed(0.125, 2.347, 150), poisson(0.05, 1.5, 200), banded(4, 20.0, 8, 5)),
)


def gaps() -> dict[str, object]:
    """The accountants' figures side by side."""
    rows = []
    for events in SPREAD:
        figures = (
            epsilon_pld(events, DELTA),
            epsilon_prv(events, DELTA),
            epsilon_rdp(events, DELTA),
        )
        rows.append(figures)
        note(f"{events[0].mechanism} and so on ({len(events)}): PLD, PRV, RDP {figures}")
    recorded = max(abs(epsilon_pld([event], DELTA) - known) for event, known in RECORDED)
    return {
        "pld_prv_max_gap": round(max(abs(prv - pld) for pld, prv, _ in rows), 5),
        "rdp_is_largest": all(rdp >= max(pld, prv) for pld, prv, rdp in rows),
        "recorded_max_gap": round(recorded, 5),
        "points": len(rows),
    }


def decisions(kinds: int) -> dict[str, float]:
    """CPU seconds of one decision in a book whose reservations are of so many kinds.

    ``first_s`` is the first one of a process, which remembers nothing yet, of a book at its cap.
    """
    book = [poisson(0.02 + kind / 500, 2.0 + kind / 10, 1) for kind in range(kinds)]
    booked = merge([book[number % kinds] for number in range(BOOK)])
    first = _cpu_s(booked, book[0], 1e-3)
    spent = epsilon_pld(booked, DELTA)
    near = _cpu_s(booked, times(book[0], 2), spent * 1.002)
    return {"first_s": first, "near_s": near, "far_s": _cpu_s(booked, book[0], spent * 10.0)}


def _cpu_s(booked: Sequence[PrivacyEvent], new: PrivacyEvent, cap: float) -> float:
    began = time.process_time()
    exceeding(booked, [new], DELTA, cap)
    return round(time.process_time() - began, 4)


def search() -> dict[str, float]:
    """What searching on private data costs, by RDP, beside the one run that is kept."""
    trial = poisson(0.01, 1.0, 1000)
    priced = {"run": epsilon_rdp([trial], DELTA)}
    for mean in (5.0, 10.0, 50.0):
        event = RepeatAndSelect(trial=(trial,), mean=mean, shape=1.0, releases=1)
        priced[f"search_of_{mean:g}"] = epsilon_rdp([event], DELTA)
    return {name: round(epsilon, 4) for name, epsilon in priced.items()}


def peer() -> float | None:
    """Opacus' figure for the first recorded point; None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from opacus.accountants import PRVAccountant  # type: ignore[import-untyped]
    except ImportError:
        return None
    accountant = PRVAccountant()
    accountant.history = [(1.0, 0.01, 1000)]
    return round(float(accountant.get_epsilon(DELTA)), 5)


def measure() -> dict[str, object]:
    """All figures of this module."""
    return {
        **gaps(),
        "decision_at_1000_reservations": {
            f"{kinds}_kinds": decisions(kinds) for kinds in (1, 5, 20)
        },
        "search": search(),
        "opacus_prv_of_the_first_point": peer(),
        "own_prv_of_the_first_point": round(epsilon_prv([RECORDED[0][0]], DELTA), 5),
    }


def main() -> None:
    """Prints one JSON object."""
    argparse.ArgumentParser(description="accountants side by side").parse_args()
    emit(measure())


if __name__ == "__main__":
    main()
