"""What a strategy remembers from round to round, kept without pickle.

A server that goes on after a crash makes the plan's strategy anew; its memory (momentum, second
moments, the model it last sent) comes back from the checkpoint, so that a run with crashes ends
with the very numbers of one without.

Generic over a strategy's instance attributes: numbers, texts, arrays, Flower's records of arrays,
and lists, tuples and dictionaries of them by name. What has a ``state_dict()`` and a
``load_state_dict(state)`` of its own is asked for that instead, within a strategy too.
Functions (such as Flower's ``train_metrics_aggr_fn``) are no memory: the plan makes them again.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import Strategy

from hansa.core.canonical import parse_json
from hansa.core.content import Content, Value
from hansa.core.errors import InvalidInputError

_RECORD: Final = "strategy"
_TREE: Final = "tree"
_CLASS: Final = "class"

_OWNER: Final = "memory"
_MAPPINGS: Final[dict[str, Any]] = {
    "array-record": ArrayRecord,
    "metric-record": MetricRecord,
    "config-record": ConfigRecord,
    "dict": dict,
}

_Arrays = dict[str, np.ndarray[Any, Any]]


def capture(strategy: Strategy) -> Content | None:
    """The strategy's memory; None where it has none.

    Raises:
        InvalidInputError: an attribute cannot be kept; the sentence names it and the remedy.
    """
    arrays: _Arrays = {}
    tree = _memory(strategy, "", arrays)
    if not tree:
        return None
    settings: dict[str, Value] = {_CLASS: _name(strategy), _TREE: json.dumps(tree)}
    return Content(arrays={_RECORD: arrays}, configs={_RECORD: settings})


def restore(strategy: Strategy, content: Content | None) -> None:
    """Gives a fresh strategy of the same plan its memory back.

    Raises:
        InvalidInputError: the memory is another strategy's, or damaged.
    """
    if content is None:
        return
    settings = content.configs[_RECORD]
    if settings[_CLASS] != _name(strategy):
        raise InvalidInputError(
            f"the checkpoint holds the memory of {settings[_CLASS]!r}, the plan's strategy is "
            f"{_name(strategy)!r}; bring back the code that the run began with"
        )
    tree = parse_json(str(settings[_TREE]).encode(), "the strategy's memory")
    _give_back(strategy, tree, content.arrays.get(_RECORD, {}))


def _keeps_itself(owner: Any) -> bool:
    return all(callable(getattr(owner, name, None)) for name in ("state_dict", "load_state_dict"))


def _is_owner(value: Any) -> bool:
    """What has a memory of its own: an accountant, or the strategy within a wrapper."""
    return isinstance(value, Strategy) or _keeps_itself(value)


def _memory(owner: Any, where: str, arrays: _Arrays) -> dict[str, Any]:
    if _keeps_itself(owner):
        state = owner.state_dict()
        if not isinstance(state, Mapping):
            raise InvalidInputError(f"{_name(owner)}.state_dict() must return a dictionary")
    else:
        state = {name: value for name, value in vars(owner).items() if not _is_code(value)}
    return {name: _packed(value, f"{where}{name}", arrays) for name, value in state.items()}


def _give_back(owner: Any, tree: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    if _keeps_itself(owner):
        owner.load_state_dict({name: _unpacked(value, arrays) for name, value in tree.items()})
        return
    for name, value in tree.items():
        if isinstance(value, list) and value[0] == _OWNER:
            _give_back(getattr(owner, name), value[1], arrays)
        else:
            setattr(owner, name, _unpacked(value, arrays))


def _is_code(value: Any) -> bool:
    return isinstance(value, type) or (callable(value) and not isinstance(value, Mapping))


def _name(owner: Any) -> str:
    return f"{type(owner).__module__}.{type(owner).__qualname__}"


def _packed(value: Any, where: str, arrays: _Arrays) -> Any:
    """The value as JSON, with its arrays set aside under numbers.

    Everything but null, booleans and texts becomes ``[kind, content]``, so that no two values
    share a form.
    """
    match value:
        case None | bool() | str():
            return value
        case np.ndarray() | np.generic():
            return _packed_array(value, where, arrays)
        case int():
            return ["int", str(value)]  # JSON's whole numbers are safe to 2 ** 53 only
        case float():
            return ["float", _float_text(value)]
        case Array():
            return ["array", _packed_array(value.numpy(), where, arrays)]
    if _is_owner(value):
        return [_OWNER, _memory(value, f"{where}.", arrays)]
    return _packed_group(value, where, arrays)


def _packed_group(value: Any, where: str, arrays: _Arrays) -> Any:
    match value:
        case ArrayRecord() | MetricRecord() | ConfigRecord() | dict():
            kind = next(kind for kind, form in _MAPPINGS.items() if isinstance(value, form))
            if not all(isinstance(name, str) for name in value):
                raise _cannot_keep(where, value)
            items = value.items()
            return [
                kind,
                [[name, _packed(item, f"{where}.{name}", arrays)] for name, item in items],
            ]
        case list() | tuple():
            kind = "list" if isinstance(value, list) else "tuple"
            return [kind, [_packed(one, f"{where}.{at}", arrays) for at, one in enumerate(value)]]
    raise _cannot_keep(where, value)


def _packed_array(value: Any, where: str, arrays: _Arrays) -> Any:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise _cannot_keep(where, value)
    number = str(len(arrays))
    arrays[number] = array
    return ["scalar" if isinstance(value, np.generic) else "ndarray", number]


def _float_text(value: float) -> str:
    return value.hex() if math.isfinite(value) else str(value)


def _cannot_keep(where: str, value: Any) -> InvalidInputError:
    return InvalidInputError(
        f"the strategy cannot be kept between rounds: its attribute {where!r} is a "
        f"{type(value).__name__}; give its class state_dict() and load_state_dict(state) with "
        "numbers, texts, arrays, lists and dictionaries"
    )


def _unpacked(value: Any, arrays: Mapping[str, Any]) -> Any:
    if not isinstance(value, list):
        return value
    kind, held = value
    match kind:
        case "int":
            return int(held)
        case "float":
            return float.fromhex(held)
        case "ndarray":
            return np.array(arrays[held])  # a copy: what lies in a file may be read-only
        case "scalar":
            return arrays[held][()]
        case "array":
            return Array(_unpacked(held, arrays))
        case "list" | "tuple":
            items = [_unpacked(item, arrays) for item in held]
            return items if kind == "list" else tuple(items)
    return _MAPPINGS[kind]({name: _unpacked(item, arrays) for name, item in held})
