"""The contract: what a merchant agreed to, in terms that its client can check by itself.

Everything outside is refused, whatever the server sends. The terms lie in the merchant's own ledger
(``hansa.core.privacy.bodies.Accept``), so that server and auditor know them too. New terms need the
merchant's consent, and the old ones hold until then. ``hansa.core.contract_rules`` applies them.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from hansa.core.canonical import digest
from hansa.core.errors import InvalidInputError
from hansa.core.ids import Sha256
from hansa.core.plan.part import PlanPart
from hansa.core.privacy.events import UNIT, Unit
from hansa.core.signing import KeyId, Signed

TERMS_DOMAIN: Final = "contract terms"
"""The purpose for which the operator signs an offer of terms."""

MAX_NOTE_CHARACTERS: Final = 500

NoiseMode = Literal["local", "distributed"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: Final[tuple[Weekday, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)")
_DAY_MINUTES: Final = 24 * 60


def minutes_of(span: str) -> tuple[int, int]:
    """Begin and end of ``HH:MM-HH:MM`` in minutes from midnight; the end is excluded.

    Raises:
        ValueError: it is no such span, or ends before it begins.
    """
    match = _SPAN.fullmatch(span)
    if match is None:
        raise ValueError(f"write {span!r} as HH:MM-HH:MM in UTC, up to 24:00")
    begin = 60 * int(match[1]) + int(match[2])
    end = _DAY_MINUTES if match[3] is None else 60 * int(match[3]) + int(match[4])
    if end <= begin:
        raise ValueError(f"{span} ends before it begins; name the part after midnight as well")
    return begin, end


def _checked_spans(spans: tuple[str, ...]) -> tuple[str, ...]:
    for span in spans:
        minutes_of(span)
    return tuple(sorted(set(spans)))


def _sorted(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


Spans = Annotated[tuple[str, ...], Field(max_length=24), AfterValidator(_checked_spans)]
Names = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")], ...],
    Field(min_length=1, max_length=16),
    AfterValidator(_sorted),
]
Digests = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...],
    Field(max_length=64),
    AfterValidator(_sorted),
]
Epsilon = Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False)]
Bytes = Annotated[int, Field(strict=True, ge=1, le=1 << 40)]


class Contract(PlanPart):
    """One merchant's terms. The defaults are those of a merchant that says nothing.

    A field that came later is written only where it says something else than its default, so that
    a contract without it keeps its digest.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    trains: Names = ("lora", "tower")
    """What of the model a plan may train: values of its ``training.trains``."""
    max_top_layers: Annotated[int, Field(strict=True, ge=1, le=100)] = 2
    """Layers of the encoder that a plan of ``top_layers`` may train."""
    units: Annotated[
        tuple[Unit, ...], Field(min_length=1, max_length=2), AfterValidator(_sorted)
    ] = (UNIT,)
    """Units of privacy that a plan may have; the ledger's own unit decides besides."""
    noise: Annotated[
        tuple[NoiseMode, ...], Field(min_length=1, max_length=2), AfterValidator(_sorted)
    ] = ("local",)
    """``local``: this client adds the whole noise; ``distributed``: others add a part of it, and
    the guarantee rests on so many of them being honest."""
    min_colluders: Annotated[int, Field(strict=True, ge=0, le=100_000)] = 1
    """Of a plan with distributed noise: so many merchants at least may work with the server
    without weakening the guarantee."""
    min_noise_multiplier: Annotated[float, Field(ge=0.0, le=1000.0, allow_inf_nan=False)] = 0.3
    """Standard deviation of a step's or a report's noise, in units of the clip norm; a plan with
    less is refused."""
    max_sampling_rate: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)] = 1.0
    """Poisson probability with which a shopper may enter a step."""
    max_records_per_shopper: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 100
    """Records of one shopper in one step."""
    max_delta: Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)] | None = None
    """Largest delta of a plan; absent: the ledger's own delta."""
    max_rounds: Annotated[int, Field(strict=True, ge=0, le=100_000)] = 10_000
    """Rounds of one run."""
    plan_epsilon: Epsilon | None = None
    """What all runs of one plan, by its name or its digest, may cost a shopper; absent: what the
    other caps leave."""
    month_epsilon: Epsilon | None = None
    """What one calendar month (UTC) may cost a shopper; absent: what the other caps leave."""
    lifetime_epsilon: Epsilon | None = None
    """What the book may cost a shopper for ever, below the book's own cap; absent: that cap."""
    metrics_share: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] = 0.25
    """Share of the lifetime cap that everything but training (metrics, reports) may cost."""
    hours: dict[Weekday, Spans] = {}  # noqa: RUF012 - a contract is frozen
    """Weekday to spans ``HH:MM-HH:MM`` (UTC) in which this client works for the federation; a
    weekday that is not named has none. Empty: always."""
    code: Digests = ()
    """Installations of Hansa (``hansa.core.code_identity``) that may touch data; empty: any."""
    secure_aggregation_only: bool = False
    """Whether updates leave only masked, so that the server sees no more than their sum."""
    max_down_bytes_per_round: Bytes = 512 << 20
    """Bytes that a task may make this client fetch."""
    max_up_bytes_per_round: Bytes = 256 << 20
    """Bytes of an answer to a task."""
    releases: bool = True
    """Whether releases of the federation's model are fetched and served."""

    @model_validator(mode="after")
    def _a_month_fits_into_a_life(self) -> "Contract":
        life = self.lifetime_epsilon
        for name, cap in (("plan", self.plan_epsilon), ("month", self.month_epsilon)):
            if life is not None and cap is not None and cap > life:
                raise ValueError(f"{name}_epsilon {cap:g} is above lifetime_epsilon {life:g}")
        return self

    @property
    def digest(self) -> Sha256:
        """The SHA-256 digest of the canonical form."""
        return digest(self.model_dump(mode="json"))


def parse_contract(value: Any, what: str) -> Contract:
    """A contract from parsed YAML or JSON; ``what`` names the source in the error.

    Raises:
        InvalidInputError: a field is unknown or out of bounds; the sentence names it.
    """
    try:
        return Contract.model_validate({} if value is None else value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the contract"
        raise InvalidInputError(f"{what}: {where}: {first['msg']}; mend this field") from error


class Offer(PlanPart):
    """Terms that the operator offers to all merchants; nothing changes until one accepts them."""

    number: Annotated[int, Field(strict=True, ge=1, le=2**53 - 1)]
    """It grows with every offer, so that an old one cannot stand for a new one."""
    contract: Contract
    note: Annotated[str, Field(max_length=MAX_NOTE_CHARACTERS)] = ""
    """Why, in the operator's words."""


def parse_offer(data: bytes, *, key_id: KeyId) -> Offer:
    """An offer that the operator signed.

    Args:
        data: the signed bytes, from anybody.
        key_id: the operator's plan key, pinned at joining.

    Raises:
        InvalidInputError: the bytes are no signed offer.
        SignatureError: another key signed, or for another purpose.
    """
    payload = Signed.parse(data, "the offered terms").verify(TERMS_DOMAIN, key_id=key_id)
    try:
        return Offer.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(f"the offered terms: {where}: {first['msg']}") from error


class Change(PlanPart):
    """One term that differs between two contracts."""

    term: str
    old: str
    new: str
    looser: bool
    """Whether the new contract allows something that the old one refused."""


def changes(old: Contract, new: Contract) -> tuple[Change, ...]:
    """Every term that differs, and whether the new one allows more."""
    return tuple(
        Change(
            term=name,
            old=shown(getattr(old, name)),
            new=shown(getattr(new, name)),
            looser=_allows_more(name, getattr(old, name), getattr(new, name)),
        )
        for name in Contract.model_fields
        if getattr(old, name) != getattr(new, name)
    )


def shown(value: object) -> str:
    """A term's value for people."""
    match value:
        case None:
            return "no limit of its own"
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join(str(one)[:16] for one in value) or "any"
        case dict():
            days = [f"{day} {' '.join(value[day]) or 'never'}" for day in WEEKDAYS if day in value]
            return "; ".join(days) or "always"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


_LESS_IS_LOOSER: Final = frozenset(
    {"min_noise_multiplier", "min_colluders", "secure_aggregation_only"}
)


def _allows_more(name: str, old: Any, new: Any) -> bool:
    if name == "hours":
        return not _open_minutes(new) <= _open_minutes(old)
    if name == "code":
        return bool(old) and not (bool(new) and set(new) <= set(old))
    if isinstance(old, tuple):
        return not set(new) <= set(old)
    if old is None or new is None:
        return old is not None
    return bool(new < old if name in _LESS_IS_LOOSER else new > old)


def _open_minutes(hours: dict[Weekday, tuple[str, ...]]) -> set[tuple[str, int]]:
    """Every minute of the week that the spans hold."""
    days: Iterable[tuple[str, tuple[str, ...]]] = hours.items()
    if not hours:
        days = [(day, ("00:00-24:00",)) for day in WEEKDAYS]
    spans = ((day, minutes_of(span)) for day, spans in days for span in spans)
    return {(day, minute) for day, span in spans for minute in range(*span)}
