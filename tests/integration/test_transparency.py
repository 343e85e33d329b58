"""The log on a running plane: what merchants witness, and what auditors may read."""

import datetime as dt

import pytest

from hansa.audit.access import Access
from hansa.audit.compare import compare
from hansa.audit.copies import read_copies
from hansa.audit.pull import connected, pull
from hansa.audit.verifier import verify
from hansa.client.witness import Witness
from hansa.core.canonical import canonical_json
from hansa.core.errors import UnauthorisedError
from hansa.core.evidence import read_pack
from hansa.core.identity import Credentials
from hansa.core.transparency.checkpoint import SignedCheckpoint
from hansa.core.transparency.merkle import verify_consistency
from hansa.protos.v1 import log_pb2 as pb
from hansa.protos.v1 import operator_pb2
from hansa.protos.v1.log_pb2_grpc import TransparencyLogStub
from hansa.server.auditor_cli import grant_file
from hansa.server.state.database import writing
from hansa.server.state.tables import LogHeadRow, LogLeafRow
from tests.fakes.toy_federation import ToyApplication, toy_plan
from tests.integration.federation_harness import TIMEOUT_S, Federation
from tests.integration.plane.calls import Code, refusal
from tests.integration.raw_member import raw_member

pytestmark = pytest.mark.integration


@pytest.fixture
def federation(tmp_path):
    with Federation(tmp_path) as federation:
        yield federation


def stub(caller) -> TransparencyLogStub:
    return TransparencyLogStub(caller.channel)  # type: ignore[no-untyped-call]


def admitted(federation: Federation, name: str = "eve") -> Access:
    """An auditor with the operator's grant."""
    access = Access(federation.folder / name)
    request = access.request(name).read_bytes()
    with federation.operator() as client:
        access.accept(grant_file(client.admit_auditor(name, request, 1)), "the grant")
    return access


def test_a_runs_facts_are_witnessed_pulled_and_verified(federation) -> None:
    federation.start_server()
    sites = [federation.join(name) for name in ("harbour", "market")]
    federation.start_clients({site: ToyApplication() for site in sites})
    run = federation.finish(toy_plan(releases=True, rounds=3))
    assert run.state == "completed", run.sentence
    again = federation.finish(toy_plan(rounds=2))
    assert again.state == "completed", again.sentence

    for site in sites:
        witness = Witness.of(site)
        assert witness.memory.alarm() is None
        assert witness.memory.seen().own >= 6, "own entries of the first run were seen in the log"
        assert len(witness.book().notes) >= 2

    access = admitted(federation)
    with connected(access) as source:
        pulled = pull(access, source)
        assert set(pulled.packs) == {run.run_id, again.run_id}
        assert pull(access, source).packs == ()
    exports = []
    for site in sites:
        exports.append(federation.folder / f"{site.path.name}.json")
        book = Witness.of(site).book()
        exports[-1].write_bytes(canonical_json(book.model_dump(mode="json")))
    seen = [one.signed for one in read_copies(exports).checkpoints]
    key = access.grant().plan_key
    data = (access.folder / "packs" / f"{run.run_id}.pack").read_bytes()
    report = verify(read_pack(data), plan_key=key, witnessed=seen)
    assert [one for one in report.checks if not one.passed] == []
    ledgers = [site.ledger / "ledger.jsonl" for site in sites]
    checks = compare(read_copies([access.folder, *exports, *ledgers]), plan_key=key)
    assert [one for one in checks if not one.passed] == []


def test_a_client_refuses_work_for_a_server_whose_log_was_rewritten(federation) -> None:
    server = federation.start_server()
    sites = [federation.join(name) for name in ("harbour", "market")]
    applications = {site: ToyApplication() for site in sites}
    federation.start_clients(applications)
    assert federation.finish(toy_plan(rounds=1)).state == "completed"
    server.parts.scribe.catch_up()
    with writing(server.parts.engine) as session:  # as an operator with a database shell might
        session.get_one(LogLeafRow, 1).hash = b"x" * 32
        head = session.get_one(LogHeadRow, 1)
        head.frontier = b"y" * len(head.frontier)
    federation.finish(toy_plan(rounds=1, deadline_s=5.0))  # it may still show the old checkpoint
    server.parts.scribe.catch_up()
    done = [len(application.rounds) for application in applications.values()]
    run = federation.finish(toy_plan(rounds=1, deadline_s=5.0))
    assert run.state == "failed"
    assert "cannot be trusted" in run.sentence
    for site in sites:
        alarm = Witness.of(site).memory.alarm()
        assert alarm is not None
        assert alarm.known != alarm.shown
    assert [len(application.rounds) for application in applications.values()] == done


class TestWhoMayRead:
    def test_a_member_reads_checkpoints_and_proofs_but_no_pack(self, federation) -> None:
        federation.start_server()
        with raw_member(federation, "harbour") as member:
            log = stub(member.caller)
            note = log.Checkpoint(pb.CheckpointRequest(), timeout=TIMEOUT_S).note
            point = SignedCheckpoint.parse(note, "it").verify()
            assert point.size >= 1
            code, text = refusal(
                lambda: list(log.Pack(pb.PackRequest(run_id="x"), timeout=TIMEOUT_S))
            )
            assert (code, "auditors" in text) == (Code.PERMISSION_DENIED, True)
            code, _ = refusal(lambda: log.Packs(pb.PacksRequest(), timeout=TIMEOUT_S))
            assert code is Code.PERMISSION_DENIED

    def test_an_auditor_reads_the_log_and_nothing_else_until_it_is_dismissed(
        self, federation
    ) -> None:
        federation.start_server()
        access = admitted(federation)
        own: Credentials = access.credentials()
        with federation.caller(own) as caller:
            assert stub(caller).Checkpoint(pb.CheckpointRequest(), timeout=TIMEOUT_S).note
            code, _ = refusal(
                lambda: caller.operator.ListMerchants(
                    operator_pb2.ListMerchantsRequest(), timeout=TIMEOUT_S
                )
            )
            assert code is Code.PERMISSION_DENIED
        with federation.operator() as client:
            client.dismiss_auditor("eve")
        with pytest.raises(UnauthorisedError, match="may not read"), connected(access) as source:
            pull(access, source)

    def test_a_second_grant_replaces_the_first(self, federation) -> None:
        federation.start_server()
        first = admitted(federation)
        second = Access(federation.folder / "second")
        request = second.request("eve").read_bytes()
        with federation.operator() as client:
            second.accept(grant_file(client.admit_auditor("eve", request, 1)), "the grant")
        with connected(second) as source:
            assert pull(second, source).new_entries >= 1
        with pytest.raises(UnauthorisedError), connected(first) as source:
            pull(first, source)


class TestLimits:
    @pytest.mark.parametrize(
        ("method", "request_"),
        [
            ("Entries", pb.EntriesRequest(first=0, count=1001)),
            ("Entries", pb.EntriesRequest(first=0, count=0)),
            ("Entries", pb.EntriesRequest(first=2**63, count=1)),
            ("Inclusion", pb.InclusionRequest(size=1, leaf_hashes=[b"x" * 32] * 65)),
            ("Inclusion", pb.InclusionRequest(size=1, leaf_hashes=[b"short"])),
            ("Inclusion", pb.InclusionRequest(size=2**60, leaf_hashes=[b"x" * 32])),
            ("Consistency", pb.ConsistencyRequest(first=0, second=1)),
            ("Consistency", pb.ConsistencyRequest(first=2, second=1)),
            ("Consistency", pb.ConsistencyRequest(first=1, second=2**63)),
        ],
    )
    def test_what_is_out_of_bounds_is_refused(self, federation, method, request_) -> None:
        federation.start_server()
        with federation.caller(federation.operators()) as caller:
            code, _ = refusal(lambda: getattr(stub(caller), method)(request_, timeout=TIMEOUT_S))
        assert code is Code.INVALID_ARGUMENT

    def test_entries_and_proofs_fit_the_checkpoint(self, federation) -> None:
        federation.start_server()
        federation.join("harbour")
        with federation.caller(federation.operators()) as caller:
            log = stub(caller)
            note = log.Checkpoint(pb.CheckpointRequest(), timeout=TIMEOUT_S).note
            point = SignedCheckpoint.parse(note, "it").verify()
            leaves = log.Entries(pb.EntriesRequest(first=0, count=1000), timeout=TIMEOUT_S).leaves
            assert len(leaves) >= point.size
            if point.size > 1:
                request = pb.ConsistencyRequest(first=point.size, second=point.size)
                proof = log.Consistency(request, timeout=TIMEOUT_S).proof
                roots = {"first_root": point.root, "second_root": point.root}
                verify_consistency(point.size, point.size, **roots, proof=list(proof))
            assert point.time <= dt.datetime.now(dt.UTC)
