"""Privacy events: what was released, never what it cost.

An event is public and lives for decades in ledgers, so its meaning must never change: a new
mechanism gets a new name, and an unknown name is refused rather than counted as zero. Numbers are
written as decimal strings in Python's shortest exact form, so that every reader books the very
same mechanism.

References:
    McKenna et al., dp_accounting, ``dp_event.py`` (the contract of an event language).
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)

from hansa.core.errors import InvalidInputError

UNIT: Literal["shopper"] = "shopper"
NEIGHBOURS: Literal["add_or_remove_one"] = "add_or_remove_one"


def _exact_number(value: object) -> object:
    if not isinstance(value, str):
        return value
    number = float(value)
    if repr(number) != value:
        raise ValueError(f"write the number {value!r} in its one exact form, {number!r}")
    return number


DecimalText = Annotated[
    float,
    BeforeValidator(_exact_number),
    PlainSerializer(repr, return_type=str, when_used="json"),
    Field(strict=True, allow_inf_nan=False),
]
"""A finite number that JSON carries as a decimal string in exactly one spelling."""

Rate = Annotated[DecimalText, Field(gt=0.0, le=1.0)]
NoiseMultiplier = Annotated[DecimalText, Field(gt=0.0)]
Count = Annotated[int, Field(strict=True, ge=1, le=2**53 - 1)]


class _Event(BaseModel):
    """What all events share: whom they protect, and against which change of the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Literal["shopper"] = UNIT
    neighbours: Literal["add_or_remove_one"] = NEIGHBOURS


class PoissonGaussian(_Event):
    """``steps`` noised sums, each over an independent Poisson sample of shoppers.

    A shopper's contribution to one sum has L2 norm at most 1 in units of the clip norm, and the
    noise has standard deviation ``noise_multiplier`` in the same units.
    """

    mechanism: Literal["poisson_gaussian"] = "poisson_gaussian"
    sampling_rate: Rate
    noise_multiplier: NoiseMultiplier
    steps: Count


class Gaussian(_Event):
    """``releases`` noised vectors of L2 sensitivity 1 over all shoppers, without sampling."""

    mechanism: Literal["gaussian"] = "gaussian"
    noise_multiplier: NoiseMultiplier
    releases: Count


PrivacyEvent = Annotated[PoissonGaussian | Gaussian, Field(discriminator="mechanism")]
"""Any event that a ledger may book."""

_EVENT: TypeAdapter[PoissonGaussian | Gaussian] = TypeAdapter(PrivacyEvent)


def parse_event(value: object) -> PoissonGaussian | Gaussian:
    """An event from parsed JSON.

    Raises:
        InvalidInputError: the mechanism is unknown, or a number is missing, inexact or out of
            bounds.
    """
    try:
        return _EVENT.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "mechanism"
        raise InvalidInputError(
            f"this privacy event is refused: {where}: {first['msg']}"
        ) from error


def merge(events: Iterable[PrivacyEvent]) -> tuple[PrivacyEvent, ...]:
    """The same releases with equal mechanisms counted together, in one canonical order.

    Composition is commutative, so ``merge`` neither depends on the order nor changes the guarantee.
    """
    poisson: dict[tuple[float, float], int] = {}
    gaussian: dict[float, int] = {}
    for event in events:
        if isinstance(event, PoissonGaussian):
            key = (event.sampling_rate, event.noise_multiplier)
            poisson[key] = poisson.get(key, 0) + event.steps
        elif isinstance(event, Gaussian):
            gaussian[event.noise_multiplier] = (
                gaussian.get(event.noise_multiplier, 0) + event.releases
            )
        else:
            raise InvalidInputError(f"{type(event).__name__} is not a known privacy event")
    return (
        *(Gaussian(noise_multiplier=z, releases=n) for z, n in sorted(gaussian.items())),
        *(
            PoissonGaussian(sampling_rate=q, noise_multiplier=z, steps=n)
            for (q, z), n in sorted(poisson.items())
        ),
    )


def _at_least(booked: PrivacyEvent, planned: PrivacyEvent) -> bool:
    if isinstance(booked, PoissonGaussian) and isinstance(planned, PoissonGaussian):
        return (
            booked.sampling_rate >= planned.sampling_rate
            and booked.noise_multiplier <= planned.noise_multiplier
            and booked.steps >= planned.steps
        )
    if isinstance(booked, Gaussian) and isinstance(planned, Gaussian):
        return (
            booked.noise_multiplier <= planned.noise_multiplier
            and booked.releases >= planned.releases
        )
    return False


def covers(booked: Sequence[PrivacyEvent], planned: Sequence[PrivacyEvent]) -> bool:
    """Whether the booked events cost at least as much as the planned ones, mechanism by mechanism.

    Each planned event needs a booked event of its own with no less sampling, no more noise and no
    fewer releases. The answer may be a false "no" for books written in an odd way, never a false
    "yes".
    """
    left = list(merge(booked))
    for need in merge(planned):
        match = next((event for event in left if _at_least(event, need)), None)
        if match is None:
            return False
        left.remove(match)
    return True
