"""Whatever can leave a merchant is declared public, noised or sealed; the rest is forbidden."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from hansa.client.evaluation import RECALL_SUM, SHOPPERS
from hansa.client.node.outgoing import CONSTANTS, NOISED, check_answer
from hansa.client.outflow import FIELDS
from hansa.core.content import Content
from hansa.core.errors import InvalidInputError
from hansa.core.plan import RunPlan
from hansa.protos.v1 import enrolment_pb2, federation_pb2, log_pb2, releases_pb2
from tests.fakes.toy_federation import FIRST_MODEL, toy_plan

SERVICES = (enrolment_pb2, federation_pb2, log_pb2, releases_pb2)
"""A client holds stubs of these services and no other."""

ROOT = Path(__file__).parents[3]


def leaves(message: Descriptor, name: str) -> Iterator[str]:
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from leaves(field.message_type, f"{name}.{field.name}")
        else:
            yield f"{name}.{field.name}"


def sendable() -> set[str]:
    found: set[str] = set()
    for module in SERVICES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                found.update(leaves(method.input_type, method.input_type.name))
    return found


def test_every_field_of_every_message_that_a_client_can_send_is_declared() -> None:
    assert sendable() - FIELDS.keys() == set()


def test_nothing_is_declared_that_cannot_be_sent() -> None:
    assert FIELDS.keys() - sendable() == set()


def test_a_client_has_stubs_of_no_other_service() -> None:
    own = {module.__name__.rpartition(".")[2] + "_grpc" for module in SERVICES}
    used = {
        word
        for path in (ROOT / "client").rglob("*.py")
        for word in path.read_text().replace(",", " ").split()
        if word.endswith("_pb2_grpc")
    }
    # The retail service is answered on site: its requests come from the shop itself.
    assert used <= own | {"retail_pb2_grpc", "health_pb2_grpc"}


def test_the_page_on_what_leaves_has_each_field_with_its_reason() -> None:
    page = (ROOT / "docs" / "what-leaves.md").read_text()
    for field, declared in FIELDS.items():
        assert f"| `{field}` | {declared.flow} | {declared.why} |" in page


TRAINED = {name: array + 1 for name, array in FIRST_MODEL.items()}
NUMBERS = {"metrics": dict(CONSTANTS)}


def checked(phase: str, plan: RunPlan | None = None, **records: Any) -> None:
    check_answer(plan or toy_plan(), phase, FIRST_MODEL, Content(**records))


class TestAnAnswer:
    def test_holds_the_plans_arrays_and_a_constant(self) -> None:
        checked("train", arrays={"arrays": TRAINED}, metrics=NUMBERS)

    def test_of_an_evaluation_holds_the_noised_numbers(self) -> None:
        assert {RECALL_SUM, SHOPPERS} == NOISED
        numbers = {**CONSTANTS, **dict.fromkeys(NOISED, 1.5)}
        checked("evaluate", metrics={"metrics": numbers})

    @pytest.mark.parametrize(
        "records",
        [
            {"arrays": {"arrays": TRAINED, "more": TRAINED}, "metrics": NUMBERS},
            {"arrays": {"arrays": TRAINED}, "metrics": {**NUMBERS, "loss": {"loss": 0.5}}},
            {"arrays": {"arrays": TRAINED}, "metrics": {"metrics": {**CONSTANTS, "loss": 0.5}}},
            {"arrays": {"arrays": TRAINED}, "metrics": {"metrics": {"num-examples": 417}}},
            {"arrays": {"arrays": TRAINED}, "metrics": NUMBERS, "configs": {"log": {"a": "b"}}},
            {"arrays": {"arrays": TRAINED}},
            {"arrays": {"arrays": {**TRAINED, "rows": np.zeros(3)}}, "metrics": NUMBERS},
            {
                "arrays": {"arrays": {n: np.append(a, a) for n, a in TRAINED.items()}},
                "metrics": NUMBERS,
            },
        ],
    )
    def test_that_holds_anything_else_does_not_leave(self, records: dict[str, Any]) -> None:
        """Losses, true counts, further arrays: whatever an app adds to what was paid for."""
        with pytest.raises(InvalidInputError):
            checked("train", **records)

    def test_of_an_evaluation_holds_no_arrays(self) -> None:
        numbers = {**CONSTANTS, **dict.fromkeys(NOISED, 1.5)}
        with pytest.raises(InvalidInputError, match="not declared"):
            checked("evaluate", arrays={"arrays": TRAINED}, metrics={"metrics": numbers})
