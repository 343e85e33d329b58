"""A client and a server one minor version apart, over a real line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hansa.client.channel import open_channel
from hansa.client.doctor import examine
from hansa.client.registration import register
from hansa.core.canonical import sha256_hex
from hansa.core.diagnosis import Grade
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.plan import parse_plan
from hansa.core.signing import Signed
from hansa.protos.v1 import federation_pb2 as pb
from tests.fakes.first_version import FirstClient, FirstServer, message
from tests.fakes.toy_federation import ToyApplication, toy_plan
from tests.integration.federation_harness import TIMEOUT_S, Federation, Server
from tests.integration.raw_member import RawMember, raw_member

pytestmark = pytest.mark.integration

PLANS = json.loads(
    (Path(__file__).parents[1] / "contract" / "wire" / "v1_0" / "plans.json").read_text()
)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


@pytest.fixture
def server(federation: Federation) -> Server:
    return federation.start_server()


@pytest.fixture
def member(federation: Federation, server: Server) -> Iterator[RawMember]:
    with raw_member(federation, "harbour") as member:
        yield member


def keys(value: Any, prefix: str = "") -> set[str]:
    """The names of all fields of a JSON object, with those of the objects within."""
    if not isinstance(value, dict):
        return set()
    return {prefix + name for name in value}.union(
        *(keys(inner, f"{prefix}{name}.") for name, inner in value.items())
    )


def fetched(client: FirstClient, task: Any, ref: Any) -> bytes:
    request = message("DownloadRequest", task_id=task.task_id, sha256=ref.sha256)
    data = b"".join(chunk.data for chunk in client.many("Federation", "Download", request))
    assert (len(data), sha256_hex(data)) == (ref.size_bytes, ref.sha256)
    return data


def test_a_client_of_the_first_version_does_a_whole_round(
    federation: Federation, member: RawMember
) -> None:
    """Every message that it sends or reads is of 1.0, and so is what is inside them."""
    client = FirstClient(member.caller.channel)
    hello = message("RegisterRequest", protocol="1", software="hansa-client 0.1.0")
    session = client.one("Federation", "Register", hello)
    assert session.merchant == "harbour"
    run_id = federation.launch(toy_plan(rounds=1, quorum=1))
    subscription = message("SubscribeRequest", session=session.session)
    events = client.many("Federation", "Subscribe", subscription)
    task = next(event.task for event in events if event.task.run_id == run_id)

    payload = Signed.parse(task.signed_plan, "the plan").verify(PLAN_DOMAIN)
    known = set().union(*(keys(plan["payload"]) for plan in PLANS.values()))
    assert keys(payload) <= known

    contents = [fetched(client, task, task.content), fetched(client, task, task.context)]
    reply = ToyApplication()(parse_plan(payload, "the plan"), "train", contents)
    ref = message("BlobRef", sha256=sha256_hex(reply), size_bytes=len(reply))
    header = message("UploadHeader", task_id=task.task_id, blob=ref)
    parts = [
        message("UploadMessage", header=header),
        message("UploadMessage", chunk=message("Chunk", data=reply)),
    ]
    assert client.send("Federation", "Upload", parts).complete
    entries = member.book(pb.Task.FromString(task.SerializeToString()), reply)
    result = message(
        "CompleteRequest",
        task_id=task.task_id,
        session=session.session,
        content=ref,
        ledger_entries=entries,
    )
    accepted = client.one("Federation", "Complete", result)
    assert accepted.acknowledgement == pb.ACKNOWLEDGEMENT_ACCEPTED
    beat = message("HeartbeatRequest", session=session.session)
    assert not client.one("Federation", "Heartbeat", beat).fenced
    run = federation.wait_for(run_id)
    assert (run.state, list(run.rounds[0].accepted)) == ("completed", ["harbour"])


@pytest.mark.parametrize(("minor", "spoken"), [(0, 0), (1, 1), (2, 1), (99, 1)])
def test_the_server_answers_with_the_minor_that_both_speak(
    member: RawMember, minor: int, spoken: int
) -> None:
    hello = pb.RegisterRequest(protocol="1", protocol_minor=minor)
    session = member.federation.Register(hello, timeout=TIMEOUT_S)
    assert session.protocol_minor == spoken
    assert session.server_time_unix_ms > 0


@pytest.fixture
def first(server: Server) -> Iterator[FirstServer]:
    """A server of 1.0 of the same federation."""
    own = server.parts.authority.own.server()
    credentials = grpc.ssl_server_credentials(
        [(own.key_pem, own.certificate_pem)],
        server.parts.authority.authority_pem,
        require_client_auth=True,
    )
    with FirstServer(credentials) as first:
        yield first


def test_todays_client_registers_with_a_server_of_the_first_version(
    member: RawMember, first: FirstServer
) -> None:
    own = member.site.credentials()
    channel = open_channel(
        first.address,
        authority_pem=member.site.authority_pem(),
        key_pem=own.key_pem,
        certificate_pem=own.certificate_pem,
    )
    with channel:
        found = register(channel)
    assert str(found.wire) == "1.0"
    assert found.ahead.total_seconds() == 0.0
    assert found.session.heartbeat_period_ms == 2000
    assert len(first.registered) == 1


def test_the_doctor_names_a_server_of_the_first_version(
    member: RawMember, first: FirstServer
) -> None:
    site = member.site
    site.write(site.settings().model_copy(update={"server_address": first.address}))
    found = {finding.name: finding for finding in examine(site)}
    assert found["server"].grade is Grade.OK
    assert found["protocol"].grade is Grade.WARN
    assert "the server 1.0; both speak 1.0" in found["protocol"].sentence
    assert found["clock"].grade is Grade.WARN
