"""Tasks that a client does not do, whatever the server says."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update
from sqlalchemy.orm import Session

from hansa.client.ledger_store import LedgerStore
from hansa.client.node.codec import TaskCodec
from hansa.client.node.outbox import Outbox
from hansa.client.node.wire import Wire
from hansa.client.node.work import Worker
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.signing import Signed, sign
from hansa.core.storage import BlobStore
from hansa.protos.v1 import federation_pb2 as pb
from hansa.server.state.tables import RunRow
from tests.fakes.toy_federation import (
    ToyApplication,
    toy_plan,
)
from tests.integration.federation_harness import (
    Federation,
    Server,
    utc_now,
)
from tests.integration.raw_member import RawMember, raw_member, tasks_of
from tests.integration.round_checks import bodies, reserved_rounds

pytestmark = pytest.mark.integration


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


@pytest.fixture
def server(federation: Federation) -> Server:
    return federation.start_server()


def edited(signed: Signed, _key: Ed25519PrivateKey) -> Signed:
    """The noise is halved under the operator's own signature."""
    privacy = {**signed.payload["privacy"], "noise_multiplier": 10.0}
    return signed.model_copy(update={"payload": {**signed.payload, "privacy": privacy}})


def signed_by_another(signed: Signed, _key: Ed25519PrivateKey) -> Signed:
    return sign(signed.payload, Ed25519PrivateKey.generate(), domain=PLAN_DOMAIN)


def signed_for_another_purpose(signed: Signed, key: Ed25519PrivateKey) -> Signed:
    return sign(signed.payload, key, domain="audit pack")


Forge = Callable[[Signed, Ed25519PrivateKey], Signed]


class TestWhatAClientRefuses:
    @pytest.mark.parametrize("forge", [edited, signed_by_another, signed_for_another_purpose])
    def test_a_plan_that_the_operator_did_not_sign_is_refused_and_costs_nothing(
        self, federation: Federation, server: Server, forge: Forge
    ) -> None:
        site, toy = federation.join("harbour"), ToyApplication()
        run_id = federation.launch(toy_plan(rounds=1, quorum=1))
        replace_plan(server, run_id, forge)
        federation.start_client(site, toy)
        run = federation.wait_for(run_id)
        assert run.state == "failed"
        assert "harbour: contract: " in run.sentence
        assert "do not use it" in run.sentence
        assert (toy.rounds, bodies(site)) == ([], [])

    @pytest.mark.parametrize(
        "change",
        [
            {"task_id": "another/1/train/harbour"},
            {"round": 99},
            {"round": 0},
            {"phase": pb.PHASE_UNSPECIFIED},
            {"phase": pb.PHASE_EVALUATE},
            {"run_id": "another"},
            {"signed_plan": b"{}"},
        ],
        ids=lambda change: "-".join(change),
    )
    def test_a_task_that_its_plan_does_not_hold_is_refused_and_costs_nothing(
        self, federation: Federation, server: Server, change: dict[str, object]
    ) -> None:
        with raw_member(federation, "harbour") as member, tasks_of(federation, member) as (task,):
            for name, value in change.items():
                setattr(task, name, value)
            toy = ToyApplication()
            work(member, toy, task)
        assert (toy.rounds, bodies(member.site)) == ([], [])

    def test_the_same_task_delivered_twice_is_trained_and_paid_once(
        self, federation: Federation, server: Server
    ) -> None:
        with raw_member(federation, "harbour") as member, tasks_of(federation, member) as (task,):
            toy = ToyApplication()
            work(member, toy, task, task)
            state = server.parts.tasks.find(task.task_id, "harbour")
        assert toy.rounds == reserved_rounds(member.site) == [1]
        assert state is not None
        assert state.state == "done"

    def test_a_content_that_cannot_be_fetched_costs_nothing(
        self, federation: Federation, server: Server
    ) -> None:
        with raw_member(federation, "harbour") as member, tasks_of(federation, member) as (task,):
            toy, whole = ToyApplication(), task.content.sha256
            task.content.sha256 = "0" * 64
            with pytest.raises(Exception, match="names that blob"):
                work(member, toy, task)
            assert bodies(member.site) == []
            task.content.sha256 = whole
            work(member, toy, task)
        assert toy.rounds == reserved_rounds(member.site) == [1]


def work(member: RawMember, toy: ToyApplication, *tasks: pb.Task) -> None:
    """Lets the real worker do tasks over the member's connection."""
    site = member.site
    outbox, contexts = Outbox(site.outbox), BlobStore(site.contexts)
    with LedgerStore.open(site.ledger) as store:
        codec = TaskCodec.of(site, store.ledger)
        worker = Worker(site.settings(), store, outbox, contexts, toy, utc_now, codec)
        wire = Wire(member.caller.channel, member.register())
        for task in tasks:
            worker.do(task, wire)


def replace_plan(server: Server, run_id: str, forge: Forge) -> None:
    """What an operator's database could be made to hold; no merchant was asked yet."""
    signed = Signed.parse(server.parts.runs.get(run_id).signed_plan, "the plan")
    forged = forge(signed, server.parts.authority.plan_key).to_bytes()
    with Session(server.parts.engine) as session, session.begin():
        session.execute(update(RunRow).where(RunRow.run_id == run_id).values(signed_plan=forged))
