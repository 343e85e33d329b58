"""Flower's strategies as a plan names them, and a user's own."""

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    Strategy,
)

from hansa.core.errors import InvalidInputError
from hansa.core.object_ref import check_allowed, load_object
from hansa.core.plan import FederationSpec

WEIGHT_KEY = "num-examples"
"""The metric by which FedAvg weighs updates; every client must send 1.

Real counts would be private, and a client could inflate its own.
"""

Check = Callable[[float], bool]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One argument of a strategy that a plan may set."""

    whole: bool = False
    """Whether it must be a whole number."""
    holds: Check
    bounds: str
    """``holds`` in words."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A strategy of Flower's."""

    kind: Callable[..., Strategy]
    options: Mapping[str, Option] = field(default_factory=dict)
    quorum: Callable[[Mapping[str, Any]], int] = lambda _options: 1
    """So many updates it needs at least, given its options."""


_POSITIVE = Option(holds=lambda value: value > 0.0, bounds="above 0")
_NOT_NEGATIVE = Option(holds=lambda value: value >= 0.0, bounds="at least 0")
_DECAY = Option(holds=lambda value: 0.0 <= value < 1.0, bounds="from 0 to below 1")
_TRIM = Option(holds=lambda value: 0.0 <= value < 0.5, bounds="from 0 to below 0.5")
_COUNT = Option(whole=True, holds=lambda value: value >= 0, bounds="at least 0")
_SOME = Option(whole=True, holds=lambda value: value >= 1, bounds="at least 1")
_STEP = {"eta": _POSITIVE, "eta_l": _POSITIVE, "tau": _POSITIVE}
_ADAPTIVE = {**_STEP, "beta_1": _DECAY, "beta_2": _DECAY}
_MALICIOUS = {"num_malicious_nodes": _COUNT}

KNOWN: Final[Mapping[str, Known]] = {
    "FedAvg": Known(kind=FedAvg),
    "FedAvgM": Known(
        kind=FedAvgM, options={"server_learning_rate": _POSITIVE, "server_momentum": _DECAY}
    ),
    "FedAdam": Known(kind=FedAdam, options=_ADAPTIVE),
    "FedYogi": Known(kind=FedYogi, options=_ADAPTIVE),
    "FedAdagrad": Known(kind=FedAdagrad, options=_STEP),
    "FedProx": Known(kind=FedProx, options={"proximal_mu": _NOT_NEGATIVE}),
    "FedMedian": Known(kind=FedMedian),
    "FedTrimmedAvg": Known(kind=FedTrimmedAvg, options={"beta": _TRIM}),
    "Krum": Known(
        kind=Krum,
        options=_MALICIOUS,
        quorum=lambda options: 2 * options.get("num_malicious_nodes", 0) + 3,
    ),
    "MultiKrum": Known(
        kind=MultiKrum,
        options={**_MALICIOUS, "num_nodes_to_select": _SOME},
        quorum=lambda options: max(
            2 * options.get("num_malicious_nodes", 0) + 3, options.get("num_nodes_to_select", 1)
        ),
    ),
    "Bulyan": Known(
        kind=Bulyan,
        options=_MALICIOUS,
        quorum=lambda options: 4 * options.get("num_malicious_nodes", 0) + 3,
    ),
}
"""By name: what a plan may set, and how many updates it takes.

Krum needs 2f + 3 updates (Blanchard et al., arXiv:1703.02757), Bulyan 4f + 3 (El Mhamdi et al.,
arXiv:1802.07927), of which f may be malicious.
"""

_QFEDAVG = (
    "federation.strategy: QFedAvg weighs each merchant by its training loss, and no merchant lets "
    "its loss out; choose another strategy, or run QFedAvg in a Flower app of your own"
)


def make_strategy(spec: FederationSpec, allowed: Collection[str] = ()) -> Strategy:
    """The plan's strategy; it asks every merchant that the Grid reaches.

    Args:
        spec: names the strategy and its options.
        allowed: the operator's list of ``module:object`` that may run here.

    Raises:
        InvalidInputError: the strategy or an option is unknown, of a wrong type or out of bounds,
            or the plan's quorum is too small for it.
        UnauthorisedError: a user's own strategy is not on the list.
    """
    if ":" in spec.strategy:
        return _own(spec, allowed)
    known = _known(spec.strategy)
    options = {name: _checked(spec, known, name) for name in spec.options}
    needed = known.quorum(options)
    if spec.quorum < needed:
        raise InvalidInputError(
            f"federation.quorum: {spec.strategy} with these options needs at least {needed} "
            f"updates, the quorum is {spec.quorum}; raise it"
        )
    return known.kind(**_asks_all(), **options)


def _asks_all() -> dict[str, Any]:
    """The Grid says whom a round reaches; the strategy takes them all, and waits for nobody."""
    return {
        "fraction_train": 1.0,
        "fraction_evaluate": 1.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 1,
        "min_available_nodes": 1,
        "weighted_by_key": WEIGHT_KEY,
    }


def _known(name: str) -> Known:
    if name == "QFedAvg":
        raise InvalidInputError(_QFEDAVG)
    if name not in KNOWN:
        raise InvalidInputError(
            f"federation.strategy: there is no strategy {name!r}; "
            f"choose one of {', '.join(KNOWN)}, or name your own as module:object"
        )
    return KNOWN[name]


def _checked(spec: FederationSpec, known: Known, name: str) -> int | float:
    option, value, where = known.options.get(name), spec.options[name], f"federation.options.{name}"
    if option is None:
        takes = ", ".join(known.options) or "no options"
        raise InvalidInputError(f"{where}: {spec.strategy} has no such option; it takes {takes}")
    fits = isinstance(value, int) if option.whole else isinstance(value, int | float)
    if isinstance(value, bool) or not fits:
        wanted = "a whole number" if option.whole else "a number"
        raise InvalidInputError(f"{where}: {value!r} is not {wanted}; mend this option")
    number = int(value) if option.whole else float(value)
    if not math.isfinite(number) or not option.holds(number):
        raise InvalidInputError(f"{where}: {value!r} is not {option.bounds}; mend this option")
    return number


def _own(spec: FederationSpec, allowed: Collection[str]) -> Strategy:
    """A user's strategy: an instance, a class or a function that makes one of the options."""
    check_allowed(
        spec.strategy,
        allowed,
        "the operator may add it with 'hansa-server allow-app MODULE:OBJECT'",
    )
    found = load_object(spec.strategy)
    made = _copied(spec, found) if isinstance(found, Strategy) else _made(spec, found)
    if not isinstance(made, Strategy):
        raise InvalidInputError(
            f"federation.strategy: {spec.strategy!r} is {type(made).__name__}, no Flower Strategy; "
            "name an instance, a class or a function that makes one"
        )
    for name in ("min_train_nodes", "min_available_nodes"):
        if getattr(made, name, 0) > spec.quorum:
            raise InvalidInputError(
                f"federation.quorum: {spec.strategy!r} waits for {getattr(made, name)} merchants "
                f"({name}), the quorum is {spec.quorum}; raise it"
            )
    return made


def _copied(spec: FederationSpec, found: Strategy) -> Strategy:
    """A copy for this run alone: the module's own instance lives as long as the server."""
    if spec.options:
        raise InvalidInputError(
            f"federation.options: {spec.strategy!r} is made already and takes no options; "
            "name its class or a function instead"
        )
    return copy.deepcopy(found)


def _made(spec: FederationSpec, make: Any) -> Any:
    if not callable(make):
        return make
    try:
        return make(**spec.options)
    except Exception as error:  # a seam: a foreign constructor may raise anything
        raise InvalidInputError(
            f"federation.options: {spec.strategy!r} cannot be made of these options: {error}"
        ) from error
