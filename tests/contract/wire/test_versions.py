"""What must stay so that a client and a server one minor version apart understand each other.

``v1_0`` holds what version 1.0 sent: its descriptors, one message of every kind, and two plans.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from hansa.core.plan import parse_plan
from tests.contract.wire.record import (
    DESCRIPTORS,
    EXPECTATIONS,
    PACKAGE,
    Wire,
    filled,
    meaning,
)

PREVIOUS = Path(__file__).parent / "v1_0"
FIRST = Wire((PREVIOUS / DESCRIPTORS).read_bytes())
MEANINGS: dict[str, dict[str, Any]] = json.loads((PREVIOUS / EXPECTATIONS).read_text())
PLANS: dict[str, dict[str, Any]] = json.loads((PREVIOUS / "plans.json").read_text())
FILES = ("common", "enrolment", "federation", "operator", "releases", "retail")
TODAY = {
    name: kind
    for file in FILES
    for name, kind in vars(importlib.import_module(f"hansa.protos.v1.{file}_pb2")).items()
    if isinstance(kind, type) and issubclass(kind, Message)
}
SERVICES = {
    name: service
    for file in FILES
    for name, service in importlib.import_module(
        f"hansa.protos.v1.{file}_pb2"
    ).DESCRIPTOR.services_by_name.items()
}


def kind_of(recording: str) -> str:
    return recording.partition(".")[0]


@pytest.mark.parametrize("recording", sorted(MEANINGS))
def test_a_message_of_the_previous_version_means_today_what_it_meant(recording: str) -> None:
    data = (PREVIOUS / f"{recording}.bin").read_bytes()
    message = TODAY[kind_of(recording)].FromString(data)
    assert meaning(message) == MEANINGS[recording]
    assert len(UnknownFieldSet(message)) == 0


@pytest.mark.parametrize("kind", list(FIRST.messages()), ids=lambda kind: kind.name)
def test_every_kind_of_the_previous_version_is_recorded(kind: Descriptor) -> None:
    assert {name for name, _ in filled(kind)} <= MEANINGS.keys()


@pytest.mark.parametrize("kind", list(FIRST.messages()), ids=lambda kind: kind.name)
def test_the_previous_version_reads_todays_messages_as_far_as_it_knows_them(
    kind: Descriptor,
) -> None:
    """What it does not know it skips; what it knows has the same value."""
    for _, message in filled(TODAY[kind.name].DESCRIPTOR):
        read = FIRST.kind(kind.name).FromString(message.SerializeToString())
        assert meaning(read) == common(meaning(message), kind)


def common(today: dict[str, Any], kind: Descriptor) -> dict[str, Any]:
    """The part of a message's meaning that the previous version knows."""
    known = {}
    for name, value in today.items():
        field = kind.fields_by_name.get(name)
        if field is None:
            continue
        if field.message_type is None:
            known[name] = value
        elif field.is_repeated:
            known[name] = [common(one, field.message_type) for one in value]
        else:
            known[name] = common(value, field.message_type)
    return known


@pytest.mark.parametrize("kind", list(FIRST.messages()), ids=lambda kind: kind.name)
def test_no_field_was_renumbered_retyped_or_taken_away(kind: Descriptor) -> None:
    today = TODAY[kind.name].DESCRIPTOR.fields_by_name
    for name, field in kind.fields_by_name.items():
        now = today[name]
        assert (now.number, now.type, now.is_repeated) == (
            field.number,
            field.type,
            field.is_repeated,
        )
        if field.enum_type is not None:
            before = {one.name: one.number for one in field.enum_type.values}
            after = {one.name: one.number for one in now.enum_type.values}
            assert before.items() <= after.items()


@pytest.mark.parametrize("service", list(FIRST.services()), ids=lambda service: service.name)
def test_no_call_was_taken_away(service: Any) -> None:
    today = SERVICES[service.name].methods_by_name
    for method in service.methods:
        now = today[method.name]
        assert shape(now) == shape(method)


def shape(method: Any) -> tuple[str, str, bool, bool]:
    types = (method.input_type.full_name, method.output_type.full_name)
    assert all(name.startswith(f"{PACKAGE}.") for name in types)
    return (*types, method.client_streaming, method.server_streaming)


@pytest.mark.parametrize("name", sorted(PLANS))
def test_a_plan_that_needs_nothing_new_is_signed_as_the_previous_version_reads_it(
    name: str,
) -> None:
    """That version refuses unknown fields, and its ledger names the digest of what it read."""
    plan = parse_plan(PLANS[name]["written"], "the plan")
    assert plan.model_dump(mode="json") == PLANS[name]["payload"]
    assert plan.digest == PLANS[name]["digest"]
    assert parse_plan(PLANS[name]["payload"], "the payload") == plan


def test_a_plan_that_needs_something_new_says_so_and_has_another_digest() -> None:
    written = PLANS["small"]["written"]
    newer = {**written, "federation": {**written["federation"], "cohort": 5}}
    plan = parse_plan(newer, "the plan")
    assert plan.model_dump(mode="json")["federation"]["cohort"] == 5
    assert plan.digest != PLANS["small"]["digest"]
    assert parse_plan(plan.model_dump(mode="json"), "the payload") == plan
