"""A foreign app's message keeps its type, its group and its numbers, whatever they are."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.core.content import Content
from hansa.core.envelope import RECORD, Envelope, flower_id, seal, unseal
from hansa.core.errors import InvalidInputError

NUMBERS = st.floats() | st.integers() | st.lists(st.floats(), max_size=4)
RECORDS = st.dictionaries(
    st.sampled_from(["metrics", "more"]), st.dictionaries(st.text(max_size=5), NUMBERS, max_size=4)
)


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)  # tells -0.0 from 0.0, and takes NaN for NaN


@given(metrics=RECORDS)
def test_what_is_not_finite_comes_back_too(metrics: dict[str, dict[str, Any]]) -> None:
    envelope = Envelope(message_type="train.fast", group_id="7")
    content = Content(metrics=metrics, configs={"settings": {"rate": math.inf, "on": True}})
    data = seal(content, envelope).to_bytes()
    found, back = unseal(Content.from_bytes(data))
    assert found == envelope
    assert same(back.metrics, metrics)
    assert same(back.configs, content.configs)


def test_arrays_and_a_group_pass_through() -> None:
    content = Content(arrays={"arrays": {"w": np.arange(3.0)}})
    envelope, back = unseal(seal(content, Envelope(message_type="query", group_id="a b")))
    assert (envelope.category, envelope.group_id) == ("query", "a b")
    assert back.arrays["arrays"]["w"].tolist() == [0.0, 1.0, 2.0]
    assert RECORD not in back.configs


@pytest.mark.parametrize("text", ["", "fit", "train.", "train.1x", "train.a.b", "system", "Train"])
def test_a_type_that_flower_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="is no message type"):
        Envelope(message_type=text)


def test_an_app_may_not_use_the_envelopes_name() -> None:
    with pytest.raises(InvalidInputError, match="rename it"):
        seal(Content(metrics={RECORD: {"x": 1}}), Envelope(message_type="train"))


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"message-type": "train", "group-id": "", "not-finite": "no json"},
        {"message-type": "fit", "group-id": "", "not-finite": "[]"},
        {"message-type": "train", "group-id": "", "not-finite": '[["metrics","m","x",null,"nan"]]'},
        {"message-type": "train", "group-id": "", "not-finite": '[["metrics"]]'},
        {"message-type": "train", "group-id": "", "not-finite": "[" * 20_000 + "]" * 20_000},
    ],
)
def test_a_forged_envelope_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        unseal(Content(configs={RECORD: record}))


@pytest.mark.parametrize("value", [10**400, "1.5", "Infinity", "NAN", 7, None, [], "9" * 400])
def test_only_what_is_not_finite_may_stand_there(value: object) -> None:
    written = json.dumps([["metrics", "m", "x", None, value]])
    record = {"message-type": "train", "group-id": "", "not-finite": written}
    with pytest.raises(InvalidInputError, match="carries no envelope"):
        unseal(Content(metrics={"m": {"x": 1}}, configs={RECORD: record}))


def test_a_number_for_flower_is_the_same_everywhere() -> None:
    assert flower_id("run-0001") == flower_id("run-0001") != flower_id("run-0002")
    assert 0 < flower_id("run-0001") < 2**56
