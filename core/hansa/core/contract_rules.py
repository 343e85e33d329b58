"""What a contract refuses: each rule names its term, what the term says and what was asked."""

import datetime as dt
from typing import Final

from hansa.core.contract import WEEKDAYS, Contract, minutes_of, shown
from hansa.core.errors import ContractError
from hansa.core.ids import Sha256
from hansa.core.plan import RunPlan
from hansa.core.privacy.events import Unit

_REMEDY: Final = "the merchant may change that with 'hansa-client contract accept'"


def check_plan(contract: Contract, plan: RunPlan, *, unit: Unit, delta: float) -> None:
    """Lets only a plan pass that keeps to all terms.

    Args:
        contract: the terms in force.
        plan: what the server asks for.
        unit: the ledger's unit of privacy.
        delta: the ledger's delta.

    Raises:
        ContractError: it does not; the sentence names the term and the values.
    """
    _check_mechanism(contract, plan)
    _check_unit(contract, plan, unit)
    most = min(delta, contract.max_delta or delta)
    if plan.privacy.delta > most:
        raise _outside("max_delta", most, f"the plan's delta is {plan.privacy.delta:g}")
    if plan.federation.rounds > contract.max_rounds:
        asked = f"the plan has {plan.federation.rounds} rounds"
        raise _outside("max_rounds", contract.max_rounds, asked)
    if contract.secure_aggregation_only and plan.federation.secure_aggregation is None:
        raise _outside("secure_aggregation_only", True, "the plan lets the server see each update")


def _check_mechanism(contract: Contract, plan: RunPlan) -> None:
    privacy = plan.privacy
    if plan.training.trains not in contract.trains:
        raise _outside("trains", contract.trains, f"the plan trains {plan.training.trains!r}")
    if plan.training.trains == "top_layers" and plan.training.top_layers > contract.max_top_layers:
        asked = f"the plan trains {plan.training.top_layers} layers"
        raise _outside("max_top_layers", contract.max_top_layers, asked)
    _check_noise(contract, plan)
    if privacy.sampling_rate > contract.max_sampling_rate:
        asked = f"the plan's sampling rate is {privacy.sampling_rate:g}"
        raise _outside("max_sampling_rate", contract.max_sampling_rate, asked)
    if privacy.records_per_shopper > contract.max_records_per_shopper:
        asked = f"the plan takes up to {privacy.records_per_shopper} records of a shopper"
        raise _outside("max_records_per_shopper", contract.max_records_per_shopper, asked)


def _check_noise(contract: Contract, plan: RunPlan) -> None:
    privacy, distributed = plan.privacy, plan.privacy.distributed_noise
    mode = "local" if distributed is None else "distributed"
    if mode not in contract.noise:
        raise _outside("noise", contract.noise, f"the plan's noise is {mode}")
    if distributed is not None and distributed.colluders < contract.min_colluders:
        asked = f"the plan bears with {distributed.colluders} colluders"
        raise _outside("min_colluders", contract.min_colluders, asked)
    noises = {
        "noise multiplier": privacy.noise_multiplier,
        "evaluation noise multiplier": privacy.evaluation_noise_multiplier,
    }
    for name, noise in noises.items():
        if noise is not None and noise < contract.min_noise_multiplier:
            asked = f"the plan's {name} is {noise:g}"
            raise _outside("min_noise_multiplier", contract.min_noise_multiplier, asked)


def _check_unit(contract: Contract, plan: RunPlan, unit: Unit) -> None:
    asked = plan.privacy.unit
    if asked not in contract.units:
        raise _outside("units", contract.units, f"the plan protects each {asked}")
    if asked != unit:
        raise ContractError(
            f"this merchant's ledger counts epsilon for each {unit}, the plan for each {asked}: "
            "the two cannot be added up; a data set needs a book of its own for the other unit"
        )


def check_hours(contract: Contract, now: dt.datetime) -> None:
    """Lets work begin only in the merchant's hours.

    Raises:
        ContractError: it is another time (UTC).
    """
    if not contract.hours:
        return
    utc = now.astimezone(dt.UTC)
    minute = 60 * utc.hour + utc.minute
    for span in contract.hours.get(WEEKDAYS[utc.weekday()], ()):
        begin, end = minutes_of(span)
        if begin <= minute < end:
            return
    asked = f"it is {WEEKDAYS[utc.weekday()]} {utc:%H:%M} UTC"
    raise _outside("hours", contract.hours, asked)


def check_code(contract: Contract, installed: Sha256) -> None:
    """Lets only an installation touch data that the merchant has accepted.

    Raises:
        ContractError: this one was changed since.
    """
    if contract.code and installed not in contract.code:
        raise ContractError(
            f"this installation of Hansa has the code {installed[:16]}, and the contract allows "
            f"{shown(contract.code)}: it was changed; where you changed it yourself, run "
            "'hansa-client contract accept --this-code'"
        )


def check_down(contract: Contract, size_bytes: int) -> None:
    """Bounds what a task may make the client fetch.

    Raises:
        ContractError: it is more than the merchant allows.
    """
    if size_bytes > contract.max_down_bytes_per_round:
        asked = f"the task sends {size_bytes} bytes"
        raise _outside("max_down_bytes_per_round", contract.max_down_bytes_per_round, asked)


def check_up(contract: Contract, size_bytes: int) -> None:
    """Bounds an answer. The sentence does not repeat its size, which may depend on private data.

    Raises:
        ContractError: it is more than the merchant allows.
    """
    if size_bytes > contract.max_up_bytes_per_round:
        asked = "the answer is larger"
        raise _outside("max_up_bytes_per_round", contract.max_up_bytes_per_round, asked)


def _outside(term: str, allowed: object, asked: str) -> ContractError:
    return ContractError(f"{asked}, and the contract's {term} is {shown(allowed)}; {_REMEDY}")
