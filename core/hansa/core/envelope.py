"""A Flower app's message as a content file: its records, and what stands on the envelope.

Apps address messages by type (``train``, ``query.statistics``) and may group them. That travels in
one more record, ``hansa-envelope``, which no app may use. So do metrics and settings that are not
finite: a diverged model's loss is a NaN that its app wants to see, and JSON has none.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from hansa.core.content import Content, Value
from hansa.core.errors import InvalidInputError

RECORD: Final = "hansa-envelope"
CATEGORIES: Final = ("train", "evaluate", "query")

_NOT_FINITE: Final = {str(value): value for value in (math.nan, math.inf, -math.inf)}
_TYPE = re.compile(rf"({'|'.join(CATEGORIES)})(\.[A-Za-z_]\w{{0,99}})?")
_Path = tuple[str, str, str, int | None]
_Records = Mapping[str, Mapping[str, Value]]


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What a message says beside its records."""

    message_type: str
    """A category, and perhaps an action: ``train``, ``query.statistics``."""
    group_id: str = ""
    """As the sender grouped it."""

    def __post_init__(self) -> None:
        """Raises InvalidInputError: there is no such type of message."""
        if not _TYPE.fullmatch(self.message_type):
            raise InvalidInputError(
                f"{self.message_type!r} is no message type; write one of {', '.join(CATEGORIES)}, "
                "or add an action, as in 'query.statistics'"
            )

    @property
    def category(self) -> str:
        """``train``, ``evaluate`` or ``query``."""
        return self.message_type.partition(".")[0]


def seal(content: Content, envelope: Envelope) -> Content:
    """The content with its envelope.

    Raises:
        InvalidInputError: the app uses the envelope's record name itself.
    """
    if RECORD in {*content.arrays, *content.metrics, *content.configs}:
        raise InvalidInputError(f"an app may not use the record name {RECORD!r}; rename it")
    strange = [*_not_finite("metrics", content.metrics), *_not_finite("configs", content.configs)]
    written: dict[str, Value] = {
        "message-type": envelope.message_type,
        "group-id": envelope.group_id,
        "not-finite": json.dumps([[*path, str(value)] for path, value in strange]),
    }
    metrics, configs = content.metrics, content.configs
    if strange:
        zeros = [(path, 0.0) for path, _ in strange]
        metrics, configs = _with("metrics", metrics, zeros), _with("configs", configs, zeros)
    return replace(content, metrics=metrics, configs={**configs, RECORD: written})


def unseal(sealed: Content) -> tuple[Envelope, Content]:
    """The envelope, and the content as it was.

    Raises:
        InvalidInputError: it is no app's message.
    """
    try:
        written = sealed.configs[RECORD]
        strange = [
            ((str(kind), str(record), str(name), index), _NOT_FINITE[value])
            for kind, record, name, index, value in json.loads(str(written["not-finite"]))
        ]
        envelope = Envelope(
            message_type=str(written["message-type"]), group_id=str(written["group-id"])
        )
        configs = {name: record for name, record in sealed.configs.items() if name != RECORD}
        content = Content(
            arrays=sealed.arrays,
            metrics=_with("metrics", sealed.metrics, strange),
            configs=_with("configs", configs, strange),
        )
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise InvalidInputError("the message carries no envelope of a Flower app") from error
    return envelope, content


def flower_id(text: str) -> int:
    """A number for Flower's apps that is the same wherever and whenever it is asked for."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _not_finite(kind: str, records: _Records) -> Iterator[tuple[_Path, float]]:
    for record, values in records.items():
        for name, value in values.items():
            for index, one in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(one, float) and not math.isfinite(one):
                    yield (kind, record, name, index), one


def _with(kind: str, records: _Records, changes: list[tuple[_Path, float]]) -> _Records:
    changed: dict[str, dict[str, Any]] = {
        record: {
            name: [*value] if isinstance(value, list) else value for name, value in one.items()
        }
        for record, one in records.items()
    }
    for (where, record, name, index), value in changes:
        if where != kind:
            continue
        if index is None:
            changed[record][name] = value
        else:
            changed[record][name][index] = value
    return changed
