"""One server for each file, and merchants that no other test knows."""

from collections.abc import Iterator
from itertools import count

import pytest

from hansa.protos.v1 import federation_pb2 as pb
from tests.integration.federation_harness import (
    Federation,
    Server,
)
from tests.integration.raw_member import RawMember, raw_member, tasks_of

_numbers = count(1)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("federation")) as federation:
        yield federation


@pytest.fixture(scope="module", autouse=True)
def server(federation: Federation) -> Server:
    return federation.start_server()


@pytest.fixture
def name() -> str:
    """A merchant that no other test knows."""
    return f"merchant-{next(_numbers)}"


@pytest.fixture
def member(federation: Federation, name: str) -> Iterator[RawMember]:
    with raw_member(federation, name) as member:
        yield member


@pytest.fixture
def other(federation: Federation, name: str) -> Iterator[RawMember]:
    with raw_member(federation, f"{name}-rival") as other:
        yield other


@pytest.fixture
def task(federation: Federation, member: RawMember) -> Iterator[pb.Task]:
    with tasks_of(federation, member) as (task,):
        yield task
