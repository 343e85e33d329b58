"""Leaving over the real plane: the receipt, its repetition, and what ends with it."""

import datetime as dt
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from hansa.audit.access import Access
from hansa.audit.copies import read_copies
from hansa.audit.pull import connected, pull
from hansa.audit.receipt import check_receipt
from hansa.client import leave as leaving
from hansa.client.cli import app
from hansa.client.halt import HaltSwitch
from hansa.client.ledger_store import LedgerStore, sole_user
from hansa.client.witness import Witness
from hansa.client.witness_memory import Seen
from hansa.core.canonical import sha256_hex
from hansa.core.errors import (
    ConflictError,
    LedgerError,
    NotFoundError,
    SignatureError,
    TransportError,
    UnauthorisedError,
)
from hansa.core.evidence import Release
from hansa.core.receipt import LedgerPlace, Receipt, Spent, read_receipt
from hansa.core.signing import signing_key
from hansa.core.transparency.checkpoint import Checkpoint
from hansa.protos.v1 import enrolment_pb2 as pb
from hansa.server.auditor_cli import grant_file
from hansa.server.leave_cli import to_do
from hansa.server.state.departures import Departures
from tests.fakes.release_world import manifest_of
from tests.fakes.toy_federation import VERSION, ToyApplication, ToyReleases, toy_plan
from tests.integration import federation_harness
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Federation,
    Server,
    Site,
    utc_now,
    wait_until,
)
from tests.integration.plane.calls import Code, refusal
from tests.integration.raw_member import raw_member

pytestmark = pytest.mark.integration

REMEDY = "retrain-without"
SPENT = Spent(
    place=LedgerPlace(entries=1, head="0" * 64), epsilon="0.00", delta=1e-5, unit="shopper"
)


class LoggedReleases(ToyReleases):
    """The toy's releases with a manifest, so that they stand in the log."""

    def evidence(self, version: int) -> Release:
        (run, *_) = self.released
        manifest = manifest_of({"model.onnx": b"weights"}, version, run=run)
        return Release(manifest=manifest.to_bytes(), metadata={})


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    monkeypatch.setattr(
        federation_harness, "open_toy_releases", lambda state, *_: LoggedReleases(state)
    )
    with Federation(tmp_path) as federation:
        yield federation


def receipt_of(federation: Federation, data: bytes) -> Receipt:
    return read_receipt(data, key_id=federation.join("witness").settings().plan_public_key)


def ask(federation: Federation, site: Site, remedy: str = REMEDY, notice: bytes = b"") -> bytes:
    with federation.caller(site.credentials()) as caller:
        request = pb.LeaveRequest(remedy=remedy, notice=notice)
        return bytes(caller.enrolment.Leave(request, timeout=TIMEOUT_S).receipt)


def trained(federation: Federation, **plan: object) -> tuple[list[Site], str]:
    """Two merchants after a run; their clients are stopped."""
    sites = [federation.join(name) for name in ("harbour", "market")]
    federation.start_clients({site: ToyApplication() for site in sites})
    run = federation.finish(toy_plan(rounds=2, **plan))
    assert run.state == "completed", run.sentence
    for client in federation._clients:
        client.tell_to_stop()
        client.wait()
    federation._clients.clear()
    return sites, str(run.run_id)


def test_a_merchant_that_leaves_gets_a_receipt_that_names_its_run_and_an_auditor_agrees(
    federation: Federation, tmp_path: Path
) -> None:
    server = federation.start_server()
    (harbour, _), run_id = trained(federation, releases=True)
    path = leaving.default_receipt(harbour, "harbour")
    done = leaving.leave(harbour, REMEDY, path, utc_now())
    assert path.parent == harbour.path.parent
    receipt = done.receipt
    assert done.remarks == ()
    assert [(one.channel, one.version, one.run) for one in receipt.releases] == [
        ("stable", VERSION, run_id)
    ]
    assert receipt.releases[0].rounds == (1, 2)
    assert receipt.spent is not None
    assert float(receipt.spent.epsilon or "0") > 0
    with LedgerStore.open(harbour.ledger) as store:
        assert receipt.spent.place.head == store.ledger.entries[-1].hash

    assert check_it(federation, tmp_path, path.read_bytes()) == []
    short = receipt.model_copy(update={"releases": ()}).signed(server.parts.authority.plan_key)
    assert check_it(federation, tmp_path, short) == ["releases are complete"]

    with federation.operator() as client:
        states = {one.merchant: one.state for one in client.merchants()}
        (owed,) = client.obligations()
    assert states == {"harbour": "left", "market": "member"}
    assert owed.open
    assert to_do(owed) == (
        f"stable {VERSION} holds its updates: release a new run that begins with base-model"
    )
    assert owed.receipt == path.read_bytes()


def check_it(federation: Federation, tmp_path: Path, receipt: bytes) -> list[str]:
    access = Access(tmp_path / "eve")
    if not (tmp_path / "eve").exists():
        request = access.request("eve").read_bytes()
        with federation.operator() as client:
            access.accept(grant_file(client.admit_auditor("eve", request, 1)), "the grant")
    with connected(access) as source:
        pull(access, source, runs=())
    copies = read_copies([access.folder])
    checks = check_receipt(receipt, copies, plan_key=access.grant().plan_key)
    return [one.name for one in checks if not one.passed]


def test_the_certificate_ends_and_a_second_leave_returns_the_same_bytes_and_nothing_else(
    federation: Federation,
) -> None:
    federation.start_server()
    with raw_member(federation, "harbour") as member:
        stream = member.subscribe()
        first = ask(federation, member.site)
        assert refusal(lambda: list(stream))[0] is Code.PERMISSION_DENIED
        assert refusal(member.register)[0] is Code.PERMISSION_DENIED
        request = pb.EnquireRequest(protocol="1")
        enquire = lambda: member.caller.enrolment.Enquire(request, timeout=TIMEOUT_S)  # noqa: E731
        assert refusal(enquire)[0] is Code.PERMISSION_DENIED
        assert ask(federation, member.site) == first
        assert ask(federation, member.site, "stated-bound") == first, "the first choice counts"


def test_the_receipt_survives_a_restart_of_the_server(federation: Federation) -> None:
    federation.start_server()
    site = federation.join("harbour")
    first = ask(federation, site)
    federation._servers.pop().stop()
    federation.start_server()
    assert ask(federation, site) == first


def test_a_server_that_died_before_the_receipt_makes_it_when_it_is_asked_again(
    federation: Federation,
) -> None:
    server = federation.start_server()
    site = federation.join("harbour")
    der = site.credentials().certificate.public_bytes(leaving.Encoding.DER)
    departures_of(server).leave("harbour", REMEDY, certificate_der=der, notice=None)
    receipt = receipt_of(federation, ask(federation, site))
    assert (receipt.remedy, receipt.certificates) == (REMEDY, (sha256_hex(der),))


def departures_of(server: Server) -> Departures:
    return Departures(server.parts.engine, lambda: 1_700_000_000.0)


def test_an_outsider_gets_nothing(federation: Federation) -> None:
    """An invitation, the operator, a merchant that was never a member, another's notice."""
    federation.start_server()
    harbour, market = federation.join("harbour"), federation.join("market")
    for own in (federation.operators(),):
        with federation.caller(own) as caller:
            call = lambda: caller.enrolment.Leave(pb.LeaveRequest(remedy=REMEDY), timeout=9)  # noqa: E731
            assert refusal(call)[0] is Code.PERMISSION_DENIED
    stolen = leaving._notice(harbour, "harbour", REMEDY, utc_now())
    code, _ = refusal(lambda: ask(federation, market, REMEDY, stolen))
    assert code is Code.PERMISSION_DENIED
    forged = leaving._notice(market, "harbour", REMEDY, utc_now())
    with pytest.raises(UnauthorisedError), federation.operator() as client:
        client.take_notice(forged)
    code, _ = refusal(lambda: ask(federation, market, "forget-everything"))
    assert code is Code.INVALID_ARGUMENT
    with federation.operator() as client:
        assert {one.state for one in client.merchants()} == {"member"}
        client.revoke("market")
    assert refusal(lambda: ask(federation, market))[0] is Code.PERMISSION_DENIED


def test_leaving_during_a_round_closes_the_task_and_the_round_goes_on(
    federation: Federation,
) -> None:
    federation.start_server()
    hold, toy_site = threading.Event(), federation.join("leaver")
    toy = ToyApplication(hold=hold)
    client = federation.start_client(toy_site, toy)
    federation.start_clients({federation.join("harbour"): ToyApplication()})
    federation.wait_online({"leaver"})
    run_id = federation.launch(toy_plan(rounds=2, quorum=1))
    assert toy.held.wait(TIMEOUT_S)
    with pytest.raises(LedgerError, match="another process"), sole_user(toy_site.ledger):
        pass
    receipt = receipt_of(federation, ask(federation, toy_site))
    run = federation.wait_for(run_id)
    hold.set()
    assert isinstance(client.wait(), UnauthorisedError)
    assert run.state == "completed"
    assert [one.merchant for one in run.rounds[0].refused] == ["leaver"]
    assert list(run.rounds[1].cohort) == ["harbour"]
    assert receipt.releases == ()
    assert receipt.runs == ()


def test_an_update_that_was_delivered_before_is_named_although_no_aggregate_holds_it_yet(
    federation: Federation,
) -> None:
    federation.start_server()
    hold, slow = threading.Event(), federation.join("slow")
    toy = ToyApplication(hold=hold)
    federation.start_client(slow, toy)
    quick = ToyApplication()
    federation.start_clients({(site := federation.join("harbour")): quick})
    federation.wait_online({"slow"})
    run_id = federation.launch(toy_plan(rounds=1, quorum=2, deadline_s=60.0))
    assert toy.held.wait(TIMEOUT_S)
    server = federation._servers[0]
    departures = departures_of(server)
    wait_until("the quick one's update", lambda: departures.in_hand("harbour") == [run_id])
    receipt = receipt_of(federation, ask(federation, site))
    assert [(one.run, one.rounds, one.ended) for one in receipt.runs] == [(run_id, (), False)]
    with federation.operator() as client:
        (owed,) = client.obligations()
    assert list(owed.unfinished_runs) == [run_id]
    hold.set()
    federation.wait_for(run_id)


class TestTheCommand:
    def run(self, site: Site, *options: str, typed: str | None = None):
        line = ["leave", "--site", str(site.path), *options]
        return CliRunner().invoke(app, line, input=typed)

    def test_asks_for_the_name_and_does_nothing_at_another_one(
        self, federation: Federation
    ) -> None:
        federation.start_server()
        site = federation.join("harbour")
        assert self.run(site, typed="market\n").exception is not None
        assert not leaving.default_receipt(site, "harbour").exists()
        assert self.run(site, typed="harbour\n").exit_code == 0

    def test_wipes_only_after_the_receipt_is_stored_and_keeps_the_ledger(
        self, federation: Federation
    ) -> None:
        federation.start_server()
        site = federation.join("harbour")
        HaltSwitch(site.halt).set(at_once=True, reason="", now=utc_now())
        within = self.run(site, "--yes", "--wipe", "--receipt", str(site.path / "receipt.json"))
        assert within.exception is not None, "the receipt would be wiped"
        assert site.has_joined()
        result = self.run(site, "--yes", "--wipe", "--remedy", REMEDY)
        assert result.exit_code == 0, result.output
        path = leaving.default_receipt(site, "harbour")
        assert read_receipt(path.read_bytes(), key_id=None).remedy == REMEDY
        assert {one.name for one in site.path.iterdir()} <= {"ledger", "log"}
        assert (site.ledger / "ledger.jsonl").exists()

    def test_a_merchant_with_its_ledger_may_join_again_and_one_without_may_not(
        self, federation: Federation
    ) -> None:
        federation.start_server()
        site = federation.join("harbour")
        assert self.run(site, "--yes", "--wipe").exit_code == 0
        assert federation.join("harbour").has_joined()
        other = federation.join("market")
        assert self.run(other, "--yes", "--wipe", "--wipe-ledger").exit_code == 0
        with pytest.raises(UnauthorisedError, match="another ledger"):
            federation.join("market")

    def test_a_receipt_that_lies_there_is_taken_when_the_wipe_was_interrupted(
        self, federation: Federation
    ) -> None:
        server = federation.start_server()
        site = federation.join("harbour")
        assert self.run(site, "--yes").exit_code == 0
        server.stop()
        assert self.run(site, "--yes", "--wipe").exit_code == 0

    def test_an_earlier_choice_of_a_remedy_is_told_before_anything_is_wiped(
        self, federation: Federation
    ) -> None:
        federation.start_server()
        site = federation.join("harbour")
        ask(federation, site)
        result = self.run(site, "--yes", "--wipe", "--remedy", "stated-bound")
        assert isinstance(result.exception, ConflictError)
        assert site.has_joined()
        assert self.run(site, "--yes", "--wipe", "--remedy", "stated-bound").exit_code == 0

    def test_a_site_with_a_broken_ledger_leaves_all_the_same(self, federation: Federation) -> None:
        federation.start_server()
        site = federation.join("harbour")
        (site.ledger / "ledger.jsonl").write_bytes(b"torn\n")
        result = self.run(site, "--yes")
        assert result.exit_code == 0, result.output
        assert "cannot be read" in result.output

    def test_refuses_while_a_client_runs(self, federation: Federation) -> None:
        federation.start_server()
        site = federation.join("harbour")
        with LedgerStore.open(site.ledger):
            assert isinstance(self.run(site, "--yes").exception, LedgerError)

    def test_an_operator_takes_a_notice_that_was_written_offline(
        self, federation: Federation
    ) -> None:
        federation.start_server()
        site = federation.join("harbour")
        assert self.run(site, "--yes", "--offline", "--remedy", REMEDY).exit_code == 0
        notice = leaving.default_notice(site, "harbour").read_bytes()
        with federation.operator() as client:
            receipt = client.take_notice(notice)
            assert client.take_notice(notice) == receipt
        path = leaving.default_receipt(site, "harbour")
        path.write_bytes(receipt)
        assert self.run(site, "--yes", "--wipe", "--receipt", str(path)).exit_code == 0

    def test_an_old_notice_does_not_end_a_later_membership(self, federation: Federation) -> None:
        federation.start_server()
        site = federation.join("harbour")
        notice = leaving._notice(site, "harbour", REMEDY, utc_now())
        ask(federation, site)
        federation.join("harbour")
        with pytest.raises(UnauthorisedError, match="any more"), federation.operator() as client:
            client.take_notice(notice)
        with federation.operator() as client:
            assert [one.state for one in client.merchants()] == ["member"]


class TestAHostileServer:
    def test_a_receipt_of_another_key_is_kept_as_evidence_and_nothing_is_wiped(
        self, federation: Federation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        federation.start_server()
        site = federation.join("harbour")
        monkeypatch.setattr(leaving, "_ask", lambda *_: forged(ask(federation, site)))
        path = leaving.default_receipt(site, "harbour")
        with pytest.raises(SignatureError):
            leaving.leave(site, REMEDY, path, utc_now())
        assert not path.exists()
        assert path.with_name("hansa-receipt-harbour.rejected.json").exists()
        assert site.has_joined()

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"merchant": "market"}, "is for market"),
            ({"certificates": ("0" * 64,)}, "another membership"),
            ({"ledger_key": "0" * 64, "notice": None}, "another ledger"),
            ({"remedy": "stated-bound"}, "says something else"),
            ({"spent": SPENT}, "that are not those of this site"),
        ],
    )
    def test_a_receipt_with_a_lie_about_this_site_is_refused_although_the_operator_signed_it(
        self,
        federation: Federation,
        monkeypatch: pytest.MonkeyPatch,
        changes: dict[str, object],
        why: str,
    ) -> None:
        key = federation.start_server().parts.authority.plan_key
        site = federation.join("harbour")
        honest = leaving._ask(site, site.settings(), REMEDY, utc_now())
        lie = read_receipt(honest, key_id=None).model_copy(update=changes).signed(key)
        monkeypatch.setattr(leaving, "_ask", lambda *_: lie)
        with pytest.raises(SignatureError, match=why):
            leaving.leave(site, REMEDY, leaving.default_receipt(site, "harbour"), utc_now())
        assert not leaving.default_receipt(site, "harbour").exists()

    def test_a_receipt_from_a_log_that_was_cut_is_taken_with_an_alarm(
        self, federation: Federation
    ) -> None:
        """The membership is over in any case; an auditor judges."""
        server = federation.start_server()
        site = federation.join("harbour")
        point = Checkpoint(origin="hansa/log/hansa", size=999, root=bytes(32), time=utc_now())
        note = point.signed(server.parts.authority.plan_key).decode()
        Witness.of(site).memory.keep(Seen(note=note), fresh=True)
        done = leaving.leave(site, REMEDY, leaving.default_receipt(site, "harbour"), utc_now())
        assert any(one.startswith("ALARM") for one in done.remarks)

    def test_anothers_receipt_is_refused(self, federation: Federation) -> None:
        federation.start_server()
        harbour, market = federation.join("harbour"), federation.join("market")
        theirs = leaving.default_receipt(harbour, "harbour")
        theirs.write_bytes(ask(federation, market))
        with pytest.raises(ConflictError, match="not for harbour"):
            leaving.leave(harbour, REMEDY, theirs, utc_now())


def forged(data: bytes) -> bytes:
    """The receipt without its releases, signed again with another key."""
    honest = read_receipt(data, key_id=None)
    return honest.model_copy(update={"releases": ()}).signed(signing_key(b"x" * 32))


def test_an_older_server_is_told_apart_from_one_that_refuses(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers UNIMPLEMENTED: the operator can still revoke."""
    federation.start_server()
    site = federation.join("harbour")
    older = grpc.server(futures.ThreadPoolExecutor(1))
    port = older.add_insecure_port("127.0.0.1:0")
    older.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    monkeypatch.setattr(leaving, "open_channel", lambda *_, **__: channel)
    try:
        with pytest.raises(NotFoundError, match="hansa-server revoke harbour"):
            leaving.leave(site, REMEDY, leaving.default_receipt(site, "harbour"), utc_now())
    finally:
        older.stop(None)
    assert not leaving.default_receipt(site, "harbour").exists()


def test_a_server_that_cannot_be_reached_leaves_everything_as_it_was(
    federation: Federation,
) -> None:
    server = federation.start_server()
    site = federation.join("harbour")
    server.stop()
    before = dt.datetime.now(dt.UTC)
    with pytest.raises(TransportError):
        leaving.leave(site, REMEDY, leaving.default_receipt(site, "harbour"), before)
    assert site.has_joined()
