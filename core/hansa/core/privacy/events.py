"""Privacy events: what was released, never what it cost.

An event is public and lives for decades in ledgers, so its meaning must never change: a new
mechanism gets a new name, and an unknown name is refused rather than counted as zero. Numbers are
written as decimal strings in Python's shortest exact form, so that every reader books the very
same mechanism.

Each event names its unit, the one whose presence it hides: a ``shopper`` with all that the merchant
holds about it, or a single ``record``. The two say different things and are never added up.

References:
    McKenna et al., dp_accounting, ``dp_event.py`` (the contract of an event language).
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal, TypeGuard

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from hansa.core.errors import InvalidInputError

Unit = Literal["shopper", "record"]
"""Who or what is added or removed between neighbouring data sets."""

UNIT: Literal["shopper"] = "shopper"
"""The default, and the only unit that a headline may name."""
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
MAX_COUNT: Final = 2**53 - 1
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
Bands = Annotated[int, Field(strict=True, ge=1, le=10_000)]
MAX_TRIAL_EVENTS: Final = 16


class _Event(BaseModel):
    """What all events share: whom they protect, and against which change of the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Unit = UNIT
    neighbours: Literal["add_or_remove_one"] = NEIGHBOURS


class PoissonGaussian(_Event):
    """``steps`` noised sums, each over an independent Poisson sample of units.

    A unit's contribution to one sum has L2 norm at most 1 in units of the clip norm, and the
    noise has standard deviation ``noise_multiplier`` in the same units.
    """

    mechanism: Literal["poisson_gaussian"] = "poisson_gaussian"
    sampling_rate: Rate
    noise_multiplier: NoiseMultiplier
    steps: Count


class Gaussian(_Event):
    """``releases`` noised vectors of L2 sensitivity 1 over all units, without sampling."""

    mechanism: Literal["gaussian"] = "gaussian"
    noise_multiplier: NoiseMultiplier
    releases: Count


class BandedGaussian(_Event):
    """``releases`` independent runs of a banded matrix mechanism, without sampling.

    One run releases ``C G + Z`` for the ``steps`` clipped sums G (one a row, each unit's part of L2
    norm at most 1 in units of the clip norm) and Gaussian noise Z of standard deviation
    ``noise_multiplier``. C is lower triangular with ``bands`` diagonals and columns of L2 norm at
    most 1. A unit takes part at most ``participations`` times in a run, at steps that lie at least
    ``bands`` apart: the columns of C at such steps do not overlap, so the unit moves ``C G`` by at
    most ``sqrt(participations)``. The sums may depend on what was released before.

    References:
        Choquette-Choo et al., "(Amplified) banded matrix factorization", arXiv:2306.08153,
        Theorem 2 (the sensitivity).
        Denisov et al., "Improved differential privacy for SGD via optimal private linear operators
        on adaptive streams", arXiv:2202.08312 (sums chosen after earlier releases).
    """

    mechanism: Literal["banded_gaussian"] = "banded_gaussian"
    bands: Bands
    noise_multiplier: NoiseMultiplier
    steps: Count
    """Steps of one run."""
    participations: Count
    """The most that a unit takes part in one run."""
    releases: Count

    @model_validator(mode="after")
    def _is_possible(self) -> "BandedGaussian":
        """A unit cannot take part oftener than its distance between steps lets it."""
        if self.participations > -(-self.steps // self.bands):
            raise ValueError(
                "a unit cannot take part more often than once in as many steps as bands"
            )
        return self


class DistributedGaussian(_Event):
    """``steps`` noised sums over all merchants' units, each unit Poisson-sampled by its merchant.

    Each merchant adds a share of the noise, in integers, and secure aggregation shows only the sum.
    ``noise_multiplier`` is what the shares of ``honest`` merchants guarantee by themselves, after
    all loss to rounding: whoever else colludes may know and subtract the rest. If fewer than
    ``honest`` shares are honest, the event promises nothing. A unit held by several merchants adds
    one contribution of norm at most 1 for each of them; the event covers one merchant's.

    References:
        Kairouz, Liu, Steinke, "The distributed discrete Gaussian mechanism for federated learning
        with secure aggregation", arXiv:2102.06387.
    """

    mechanism: Literal["distributed_gaussian"] = "distributed_gaussian"
    sampling_rate: Rate
    noise_multiplier: NoiseMultiplier
    steps: Count
    honest: Count


TrialEvent = Annotated[
    PoissonGaussian | Gaussian | BandedGaussian | DistributedGaussian,
    Field(discriminator="mechanism"),
]
"""What one trial of a search may consist of; searches are not nested."""


class RepeatAndSelect(_Event):
    """``releases`` searches on private data, each of which lets out only its best trial.

    How many trials a search makes is drawn from a truncated negative binomial distribution of this
    ``mean`` and ``shape`` (1 is geometric, 0 logarithmic), independently of the data and kept
    secret; each trial is worth all events of ``trial``, and they are stored merged.

    References:
        Papernot and Steinke, "Hyperparameter tuning with Renyi differential privacy",
        arXiv:2110.03620, Theorem 2.
    """

    mechanism: Literal["repeat_and_select"] = "repeat_and_select"
    trial: Annotated[tuple[TrialEvent, ...], Field(min_length=1, max_length=MAX_TRIAL_EVENTS)]
    mean: Annotated[DecimalText, Field(gt=1.0, le=1e6)]
    shape: Annotated[DecimalText, Field(ge=0.0, le=1e6)]
    releases: Count

    @field_validator("trial", mode="after")
    @classmethod
    def _merged(cls, trial: tuple[TrialEvent, ...]) -> tuple[TrialEvent, ...]:
        """One form for equal trials."""
        try:
            return tuple(event for event in merge(trial) if _is_trial(event))
        except InvalidInputError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _one_unit(self) -> "RepeatAndSelect":
        if self.trial[0].unit != self.unit:
            raise ValueError(f"the trials' unit is {self.trial[0].unit}, the search's {self.unit}")
        return self


AnyEvent = PoissonGaussian | Gaussian | BandedGaussian | DistributedGaussian | RepeatAndSelect
PrivacyEvent = Annotated[AnyEvent, Field(discriminator="mechanism")]
"""Any event that a ledger may book."""

_KINDS: Final = (PoissonGaussian, Gaussian, BandedGaussian, DistributedGaussian, RepeatAndSelect)
_EVENT: TypeAdapter[AnyEvent] = TypeAdapter(PrivacyEvent)
_Key = tuple[str, tuple[float, ...], str, str]


def parse_event(value: object) -> AnyEvent:
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


def unit_of(events: Iterable[PrivacyEvent]) -> Unit | None:
    """The one unit of all these events; none for no events.

    Raises:
        InvalidInputError: the events have different units, or one of them is unknown.
    """
    units = {_known(event).unit for event in events}
    if len(units) > 1:
        raise InvalidInputError(
            "events of the units record and shopper cannot be added up; keep a book for each unit"
        )
    return units.pop() if units else None


def count_of(event: PrivacyEvent) -> int:
    """How often the event's mechanism ran: its steps, or its releases."""
    match event:
        case PoissonGaussian() | DistributedGaussian():
            return event.steps
        case Gaussian() | BandedGaussian() | RepeatAndSelect():
            return event.releases


def times(event: PrivacyEvent, count: int) -> PrivacyEvent:
    """The same mechanism, run ``count`` times in all.

    Raises:
        InvalidInputError: the count is below 1, or too large to be written exactly.
    """
    if not 1 <= count <= MAX_COUNT:
        raise InvalidInputError(
            "a mechanism's count must lie between 1 and 2^53 - 1; split the book"
        )
    if count == count_of(event):
        return event
    match event:
        case PoissonGaussian() | DistributedGaussian():
            return event.model_copy(update={"steps": count})
        case Gaussian() | BandedGaussian() | RepeatAndSelect():
            return event.model_copy(update={"releases": count})


def merge(events: Iterable[PrivacyEvent]) -> tuple[PrivacyEvent, ...]:
    """The same releases with equal mechanisms counted together, in one canonical order.

    Composition is commutative, so ``merge`` neither depends on the order nor changes the guarantee.

    Raises:
        InvalidInputError: the events have different units, one of them is unknown, or a count
            becomes too large.
    """
    counts: dict[_Key, int] = {}
    samples: dict[_Key, PrivacyEvent] = {}
    for event in events:
        key = _key(event)
        samples.setdefault(key, event)
        counts[key] = counts.get(key, 0) + count_of(event)
    unit_of(samples.values())
    return tuple(times(samples[key], counts[key]) for key in sorted(counts))


def covers(booked: Sequence[PrivacyEvent], planned: Sequence[PrivacyEvent]) -> bool:
    """Whether the booked events cost at least as much as the planned ones, mechanism by mechanism.

    Each planned event needs a booked event of its own with no less sampling, no more noise and no
    fewer releases. The answer may be a false "no" for books written in an odd way, never a false
    "yes".

    Raises:
        InvalidInputError: the events have different units, or one of them is unknown.
    """
    unit_of([*booked, *planned])
    left = list(merge(booked))
    for need in merge(planned):
        match = next((event for event in left if _at_least(event, need)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _known(event: PrivacyEvent) -> PrivacyEvent:
    if not isinstance(event, _KINDS):
        raise InvalidInputError(f"{type(event).__name__} is not a known privacy event")
    return event


def _is_trial(event: PrivacyEvent) -> TypeGuard[TrialEvent]:
    return not isinstance(event, RepeatAndSelect)


def _key(event: PrivacyEvent) -> _Key:
    """All that tells one mechanism from another, and its place among others; not its count."""
    trial = ""
    match _known(event):
        case PoissonGaussian() as one:
            numbers: tuple[float, ...] = (one.sampling_rate, one.noise_multiplier)
        case Gaussian() as one:
            numbers = (one.noise_multiplier,)
        case BandedGaussian() as one:
            numbers = (one.noise_multiplier, one.bands, one.steps, one.participations)
        case DistributedGaussian() as one:
            numbers = (one.sampling_rate, one.noise_multiplier, one.honest)
        case RepeatAndSelect() as one:
            numbers = (one.mean, one.shape)
            trial = "".join(part.model_dump_json() for part in one.trial)
    return event.mechanism, numbers, trial, event.unit


def _at_least(booked: PrivacyEvent, planned: PrivacyEvent) -> bool:
    """Whether one event, of the same mechanism and trust assumption, costs at least another."""
    match booked, planned:
        case PoissonGaussian(), PoissonGaussian():
            return _samples_at_least(booked, planned)
        case DistributedGaussian(), DistributedGaussian():
            return booked.honest == planned.honest and _samples_at_least(booked, planned)
        case Gaussian(), Gaussian():
            return (
                booked.noise_multiplier <= planned.noise_multiplier
                and booked.releases >= planned.releases
            )
        case BandedGaussian(), BandedGaussian():
            return (
                (booked.bands, booked.steps) == (planned.bands, planned.steps)
                and booked.noise_multiplier <= planned.noise_multiplier
                and booked.participations >= planned.participations
                and booked.releases >= planned.releases
            )
        case RepeatAndSelect(), RepeatAndSelect():
            return (
                booked.shape == planned.shape
                and booked.mean >= planned.mean
                and booked.releases >= planned.releases
                and covers(booked.trial, planned.trial)
            )
        case _:
            return False


def _samples_at_least(
    booked: PoissonGaussian | DistributedGaussian, planned: PoissonGaussian | DistributedGaussian
) -> bool:
    return (
        booked.sampling_rate >= planned.sampling_rate
        and booked.noise_multiplier <= planned.noise_multiplier
        and booked.steps >= planned.steps
    )
