"""Whole runs over real gRPC: a real server, real clients and ledgers, a model of four numbers."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update
from sqlalchemy.orm import Session

from hansa.audit.verifier import verify
from hansa.client.ledger_store import LedgerStore, read_ledger
from hansa.client.node.outbox import Letter, Outbox
from hansa.client.node.wire import Wire
from hansa.client.node.work import Worker
from hansa.client.site import Site
from hansa.core.content import Content
from hansa.core.errors import ConflictError, InvalidInputError, UnauthorisedError
from hansa.core.evidence import PLAN_DOMAIN, read_pack
from hansa.core.ids import MerchantId, TaskId
from hansa.core.plan import RunPlan
from hansa.core.privacy.entries import Commit, Refuse, Reserve
from hansa.core.signing import Signed, sign
from hansa.core.storage import BlobStore
from hansa.core.update import Arrays
from hansa.protos.v1 import federation_pb2 as pb
from hansa.server.serve import assemble, running
from hansa.server.state.tables import RunRow
from tests.fakes.toy_federation import (
    FIRST_MODEL,
    Crash,
    ToyApplication,
    ToyReleases,
    open_toy_releases,
    toy_plan,
    with_arrays,
)
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Federation,
    Server,
    aggregates,
    refused,
    utc_now,
    wait_until,
)
from tests.integration.raw_member import RawMember, raw_member, tasks_of

pytestmark = pytest.mark.integration


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


@pytest.fixture
def server(federation: Federation) -> Server:
    return federation.start_server()


def moved(by: float) -> Arrays:
    """The first model, moved by a number that float32 holds exactly."""
    return {name: array + np.float32(by) for name, array in FIRST_MODEL.items()}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array), name


def bodies(site: Site) -> list[object]:
    """What the merchant's ledger says after its opening."""
    return [entry.body for entry in read_ledger(site.ledger).entries[1:]]


def reserved_rounds(site: Site) -> list[int]:
    return [body.round for body in bodies(site) if isinstance(body, Reserve)]


class TestARun:
    def test_each_round_ends_with_the_exact_mean_of_what_the_merchants_sent(
        self, federation: Federation, server: Server
    ) -> None:
        steps = {"harbour": 1.0, "market": 2.0, "mill": 4.0, "quarry": 8.0}
        toys = {federation.join(name): ToyApplication(step) for name, step in steps.items()}
        federation.start_clients(toys)
        run = federation.finish(toy_plan(rounds=3, quorum=4))
        assert (run.state, run.rounds_done) == ("completed", 3)
        for number, aggregate in enumerate(aggregates(server, run.run_id), 1):
            assert_same(aggregate, moved(3.75 * number))
        for row in run.rounds:
            assert sorted(row.accepted) == sorted(row.cohort) == sorted(steps)
            assert refused(row) == {}
        assert [toy.rounds for toy in toys.values()] == [[1, 2, 3]] * 4

    def test_the_auditor_finds_every_accepted_update_reserved_and_committed(
        self, federation: Federation, server: Server
    ) -> None:
        sites = [federation.join(name) for name in ("harbour", "market")]
        federation.start_clients({site: ToyApplication() for site in sites})
        run = federation.finish(toy_plan(rounds=2, quorum=2))
        with federation.operator() as client:
            pack = read_pack(client.pack(run.run_id))
        report = verify(pack, plan_key=sites[0].settings().plan_public_key)
        assert [check for check in report.checks if not check.passed] == []
        assert [(spend.reservations, spend.commits) for spend in report.spends] == [(2, 2)] * 2

    def test_the_mean_of_the_last_rounds_is_judged_by_pooled_noised_counts_and_released(
        self, federation: Federation, server: Server
    ) -> None:
        """Each round moves the model by 2; the last half of four rounds ends at 6 and 8."""
        steps = {"harbour": 1.0, "market": 3.0}
        federation.start_clients(
            {federation.join(name): ToyApplication(step) for name, step in steps.items()}
        )
        run = federation.finish(toy_plan(rounds=4, quorum=2, releases=True, tail_fraction=0.5))
        assert (run.state, run.sentence) == ("completed", "release 7 is published")
        assert run.release_version == 7
        assert isinstance(server.parts.releaser, ToyReleases)
        assert_same(server.parts.releaser.released[run.run_id], moved(7.0))
        quality = server.parts.runs.get(run.run_id).evaluation
        assert quality is not None
        assert (quality["merchants"], quality["shoppers_noised"]) == (2, 10.0 + 30.0)
        assert quality["recall_at_10"] == (3.0 + 9.0) / 40.0


class TestAMerchantThatCannotPay:
    def test_it_refuses_by_name_is_asked_no_more_and_the_others_go_on(
        self, federation: Federation, server: Server
    ) -> None:
        """One round costs an epsilon of 0.013, two cost 0.019."""
        poor, toy = federation.join("poor", cap=0.015), ToyApplication(9.0)
        others = {federation.join(name): ToyApplication(1.0) for name in ("harbour", "market")}
        federation.start_clients({poor: toy, **others})
        run = federation.finish(toy_plan(rounds=4, quorum=2))
        assert run.state == "completed"
        assert [refused(row) for row in run.rounds] == [{}, {"poor": "budget"}, {}, {}]
        assert ["poor" in row.cohort for row in run.rounds] == [True, True, False, False]
        assert toy.rounds == reserved_rounds(poor) == [1]
        first, second, *_ = aggregates(server, run.run_id)
        assert_same(second, {name: array + np.float32(1.0) for name, array in first.items()})

    def test_its_refusal_is_in_its_signed_ledger_and_in_the_servers_copy(
        self, federation: Federation, server: Server
    ) -> None:
        poor = federation.join("poor", cap=0.001)
        federation.start_clients({poor: ToyApplication()})
        run = federation.finish(toy_plan(rounds=1, quorum=1))
        assert run.state == "failed"
        assert "poor: budget: " in run.sentence
        assert [type(body) for body in bodies(poor)] == [Refuse]
        copy = server.parts.evidence.ledger(MerchantId("poor"))
        assert copy == read_ledger(poor.ledger).entries


def with_metrics(**metrics: object) -> Callable[[Content], Content]:
    return lambda reply: Content(arrays=reply.arrays, metrics={"metrics": metrics})  # type: ignore[dict-item]


BROKEN: dict[str, Callable[[Content], Content]] = {
    "not-a-number": with_arrays(lambda arrays: {**arrays, "bias": np.array(np.nan, np.float32)}),
    "infinite": with_arrays(lambda arrays: {**arrays, "bias": np.array(np.inf, np.float32)}),
    "wrong-shape": with_arrays(lambda arrays: {**arrays, "weights": np.zeros(4, np.float32)}),
    "wrong-type": with_arrays(lambda arrays: {**arrays, "weights": np.zeros(3, np.float64)}),
    "missing": with_arrays(lambda arrays: {"weights": arrays["weights"]}),
    "renamed": with_arrays(lambda arrays: {"weights": arrays["weights"], "b": arrays["bias"]}),
    "too-far": with_arrays(lambda arrays: {**arrays, "bias": np.array(10.6, np.float32)}),
    "inflated": with_metrics(**{"num-examples": 1_000_000}),
    "negative": with_metrics(**{"num-examples": -1}),
    "talkative": with_metrics(**{"num-examples": 1, "shoppers": 17}),
    "text-metric": with_metrics(**{"num-examples": "many"}),
    "extra-record": lambda reply: Content(
        arrays={**reply.arrays, "more": {"x": np.zeros(2, np.float32)}}, metrics=reply.metrics
    ),
    "extra-setting": lambda reply: Content(
        arrays=reply.arrays, metrics=reply.metrics, configs={"config": {"note": "hello"}}
    ),
}


class GarbageApplication(ToyApplication):
    """Answers with bytes that are no content file."""

    def __call__(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
        return b"\xff" * 100


class FailingApplication(ToyApplication):
    """Breaks, in training or already while it makes ready, with a private fact in the message."""

    def __init__(self, *, while_preparing: bool = False) -> None:
        super().__init__()
        self._while_preparing = while_preparing

    def prepare(self, plan: RunPlan) -> None:
        if self._while_preparing:
            raise RuntimeError("shopper 4711 could not be read")

    def __call__(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
        raise RuntimeError("shopper 4711 could not be read")


class TestAMerchantThatMisbehaves:
    def test_each_is_rejected_by_name_and_the_round_goes_on_with_the_others(
        self, federation: Federation, server: Server
    ) -> None:
        names = [*BROKEN, "garbage"]
        toys = {federation.join(name): ToyApplication(change=BROKEN[name]) for name in BROKEN}
        honest = {"harbour": 1.0, "market": 2.0}
        federation.start_clients(
            {
                **toys,
                federation.join("garbage"): GarbageApplication(),
                **{federation.join(name): ToyApplication(step) for name, step in honest.items()},
            }
        )
        run = federation.finish(toy_plan(rounds=1, quorum=2, max_update_norm=10.0))
        assert run.state == "completed"
        assert refused(run.rounds[0]) == dict.fromkeys(names, "rejected")
        assert sorted(run.rounds[0].accepted) == ["harbour", "market"]
        assert_same(aggregates(server, run.run_id)[0], moved(1.5))

    @pytest.mark.parametrize("while_preparing", [False, True])
    def test_an_error_at_a_merchant_reaches_the_operator_by_its_kind_only(
        self, federation: Federation, server: Server, while_preparing: bool
    ) -> None:
        broken = FailingApplication(while_preparing=while_preparing)
        federation.start_clients(
            {federation.join("harbour"): ToyApplication(), federation.join("mill"): broken}
        )
        run = federation.finish(toy_plan(rounds=1, quorum=1))
        (task,) = run.rounds[0].refused
        assert (task.merchant, task.reason, task.sentence) == ("mill", "failed", "RuntimeError")

    def test_too_few_valid_updates_fail_the_run_with_every_reason(
        self, federation: Federation, server: Server
    ) -> None:
        federation.start_clients(
            {
                federation.join("poor", cap=0.001): ToyApplication(),
                federation.join("broken"): ToyApplication(change=BROKEN["not-a-number"]),
                federation.join("harbour"): ToyApplication(),
            }
        )
        run = federation.finish(toy_plan(rounds=3, quorum=2))
        assert (run.state, run.rounds_done) == ("failed", 0)
        assert "round 1 has 1 valid updates, the plan's quorum is 2" in run.sentence
        assert "poor: budget: " in run.sentence
        assert "broken: rejected: array 'bias'" in run.sentence

    def test_a_run_without_merchants_fails_and_says_what_to_do(
        self, federation: Federation, server: Server
    ) -> None:
        run = federation.finish(toy_plan(rounds=1, quorum=1, deadline_s=0.5))
        assert run.state == "failed"
        assert "only 0 merchants are online" in run.sentence
        assert "start more clients or lower the quorum" in run.sentence

    def test_a_silent_merchant_is_passed_over_at_the_deadline(
        self, federation: Federation, server: Server
    ) -> None:
        federation.start_clients({federation.join("harbour"): ToyApplication(2.0)})
        with raw_member(federation, "silent"):
            run = federation.finish(toy_plan(rounds=1, quorum=1, deadline_s=1.0))
        assert run.state == "completed"
        assert refused(run.rounds[0]) == {"silent": "deadline"}
        assert 1.0 <= run.rounds[0].seconds < 3.0
        assert_same(aggregates(server, run.run_id)[0], moved(2.0))

    def test_a_revoked_merchants_client_ends_and_the_others_go_on(
        self, federation: Federation, server: Server
    ) -> None:
        hold = threading.Event()
        toy = ToyApplication(hold=hold)
        leaver = federation.start_client(federation.join("leaver"), toy)
        federation.start_clients({federation.join("harbour"): ToyApplication()})
        federation.wait_online({"leaver"})
        run_id = federation.launch(toy_plan(rounds=2, quorum=1))
        assert toy.held.wait(TIMEOUT_S)
        with federation.operator() as client:
            client.revoke("leaver")
        run = federation.wait_for(run_id)
        assert run.state == "completed"
        assert refused(run.rounds[0]) == {"leaver": "revoked"}
        assert list(run.rounds[1].cohort) == ["harbour"]
        assert run.rounds[0].seconds < 10.0
        hold.set()
        assert isinstance(leaver.wait(), UnauthorisedError)


class TestStopping:
    def test_a_stopped_run_ends_within_five_seconds_and_nobody_pays_for_it_any_more(
        self, federation: Federation, server: Server
    ) -> None:
        hold, site = threading.Event(), federation.join("harbour")
        toy = ToyApplication(hold=hold)
        federation.start_clients({site: toy})
        run_id = federation.launch(toy_plan(rounds=50, quorum=1))
        assert toy.held.wait(TIMEOUT_S)
        with federation.operator() as client:
            started = time.monotonic()
            client.stop_run(run_id)
            run = federation.wait_for(run_id)
            assert time.monotonic() - started < 5.0
        assert (run.state, run.sentence) == ("stopped", "stopped by the operator")
        hold.set()
        wait_until("the late update's end", lambda: not any(site.outbox.glob("*")))
        assert reserved_rounds(site) == [1]

    def test_a_run_that_waits_behind_another_stops_at_once(
        self, federation: Federation, server: Server
    ) -> None:
        with federation.operator() as client:
            first = federation.launch(toy_plan("first", rounds=1, quorum=1, deadline_s=60.0))
            second = federation.launch(toy_plan("second", rounds=1, quorum=1))
            client.stop_run(second)
            assert client.run(second).state == "stopped"
            assert client.run(first).state in ("queued", "running")
            client.stop_run(first)
        assert federation.wait_for(first).state == "stopped"

    def test_a_finished_run_stays_finished(self, federation: Federation, server: Server) -> None:
        federation.start_clients({federation.join("harbour"): ToyApplication()})
        run = federation.finish(toy_plan(rounds=1, quorum=1))
        with federation.operator() as client:
            client.stop_run(run.run_id)
            assert client.run(run.run_id).state == "completed"


class TestAServerThatGoesDown:
    """Whatever the merchants paid for still counts, and nobody trains a round twice."""

    @pytest.fixture
    def hold(self) -> threading.Event:
        return threading.Event()

    @pytest.fixture
    def toys(self, hold: threading.Event) -> list[ToyApplication]:
        """One that answers at once, and two whose training of round 2 outlives the server."""
        held = [ToyApplication(step, hold=hold, hold_from=2) for step in (2.0, 4.0, 8.0)]
        return [ToyApplication(1.0), *held]

    def launch(self, federation: Federation, toys: list[ToyApplication], **limits: object) -> str:
        names = ("harbour", "market", "mill", "quarry")
        sites = [federation.join(name) for name in names]
        federation.start_clients(dict(zip(sites, toys, strict=True)))
        run_id = federation.launch(toy_plan(rounds=3, **{"quorum": 4, **limits}))
        for toy in toys[1:]:
            assert toy.held.wait(TIMEOUT_S)
        return run_id

    def check(self, server: Server, federation: Federation, run_id: str, toys: list) -> None:
        run = federation.wait_for(run_id)
        assert (run.state, run.rounds_done, run.sentence) == (
            "completed",
            3,
            "trained; the plan releases nothing",
        )
        assert [toy.rounds for toy in toys] == [[1, 2, 3]] * 4
        for number, aggregate in enumerate(aggregates(server, run_id), 1):
            assert_same(aggregate, moved(3.75 * number))

    def test_a_killed_server_goes_on_with_its_round(
        self, federation: Federation, hold: threading.Event, toys: list[ToyApplication]
    ) -> None:
        killed = federation.start_server_process()
        run_id = self.launch(federation, toys)
        killed.stop()
        hold.set()
        self.check(federation.start_server(), federation, run_id, toys)

    def test_a_server_that_is_told_to_stop_goes_on_with_its_round(
        self, federation: Federation, hold: threading.Event, toys: list[ToyApplication]
    ) -> None:
        server = federation.start_server()
        run_id = self.launch(federation, toys)
        server.stop()
        hold.set()
        self.check(federation.start_server(), federation, run_id, toys)

    def test_a_server_that_was_down_beyond_the_deadline_takes_the_round_up_again(
        self, federation: Federation, hold: threading.Event, toys: list[ToyApplication]
    ) -> None:
        server = federation.start_server()
        run_id = self.launch(federation, toys)
        server.stop()
        make_long_ago(server)
        hold.set()
        self.check(federation.start_server(), federation, run_id, toys)

    def test_merchants_that_come_back_after_the_quorum_still_count(
        self, federation: Federation, hold: threading.Event, toys: list[ToyApplication]
    ) -> None:
        """The restarted server goes on with the first that it sees, but it had asked four."""
        server = federation.start_server()
        run_id = self.launch(federation, toys, quorum=1)
        server.stop()
        make_long_ago(server)
        hold.set()
        self.check(federation.start_server(), federation, run_id, toys)

    def test_a_second_server_beside_a_running_one_is_refused(
        self, federation: Federation, server: Server
    ) -> None:
        """Two would carry out the same run twice."""

        async def second() -> None:
            async with running(assemble(federation.state, open_toy_releases)):
                raise AssertionError("two servers run on one state")

        with pytest.raises(InvalidInputError, match="is another server running there"):
            asyncio.run(second())

    def test_finished_rounds_are_not_run_again(self, federation: Federation) -> None:
        """Killed between two rounds: the merchant has finished one and not begun the next."""
        killed = federation.start_server_process()
        site, toy = federation.join("harbour"), ToyApplication(1.0)
        first = federation.start_client(site, toy)
        run_id = federation.launch(toy_plan(rounds=400, quorum=1))
        with federation.operator() as client:
            wait_until("three rounds", lambda: client.run(run_id).rounds_done >= 3)
            first.tell_to_stop()
            first.wait()
            before = list(client.run(run_id).rounds)
        killed.stop()
        done = len(toy.rounds)
        server = federation.start_server()
        again = ToyApplication(1.0)
        federation.start_client(site, again)
        wait_until("two more rounds", lambda: len(again.rounds) >= 2)
        with federation.operator() as client:
            client.stop_run(run_id)
        after = list(federation.wait_for(run_id).rounds)
        assert after[: len(before)] == before
        assert toy.rounds == list(range(1, done + 1))
        assert again.rounds[0] == done + 1
        for number, aggregate in enumerate(aggregates(server, run_id), 1):
            assert_same(aggregate, moved(float(number)))


def make_long_ago(server: Server) -> None:
    """As if the server had been down beyond every deadline and heartbeat."""
    with server.parts.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE merchants SET last_seen = 0")
        connection.exec_driver_sql("UPDATE tasks SET deadline = 0")


class CrashAfterKeeping(Outbox):
    """The process dies with the update on disk, before the ledger and the server know of it."""

    def put(self, task: TaskId, content: bytes) -> Letter:
        super().put(task, content)
        raise Crash


class TestAClientThatCrashes:
    def test_between_payment_and_update_it_answers_interrupted_and_stays_charged(
        self, federation: Federation, server: Server
    ) -> None:
        site, dying, again = federation.join("harbour"), ToyApplication(die=True), ToyApplication()
        federation.start_clients({federation.join("market"): ToyApplication()})
        crashed = federation.start_client(site, dying)
        federation.wait_online({"harbour"})
        run_id = federation.launch(toy_plan(rounds=2, quorum=1))
        assert isinstance(crashed.wait(), Crash)
        federation.start_client(site, again)
        run = federation.wait_for(run_id)
        assert [refused(row) for row in run.rounds] == [{"harbour": "interrupted"}, {}]
        assert (dying.rounds, again.rounds) == ([1], [2])
        assert [type(body) for body in bodies(site)] == [Reserve, Reserve, Commit]

    def test_after_the_update_was_kept_it_sends_the_same_bytes_without_training_again(
        self, federation: Federation, server: Server
    ) -> None:
        site, dying, again = federation.join("harbour"), ToyApplication(3.0), ToyApplication(5.0)
        crashed = federation.start_client(site, dying, CrashAfterKeeping)
        federation.wait_online({"harbour"})
        run_id = federation.launch(toy_plan(rounds=1, quorum=1))
        assert isinstance(crashed.wait(), Crash)
        kept = Outbox(site.outbox).find(TaskId(f"{run_id}/1/train/harbour"))
        assert kept is not None
        federation.start_client(site, again)
        assert federation.wait_for(run_id).state == "completed"
        assert (dying.rounds, again.rounds) == ([1], [])
        assert server.parts.runs.rounds(run_id)[0].accepted == {"harbour": kept.sha256}
        assert_same(aggregates(server, run_id)[0], moved(3.0))
        reserve, commit = bodies(site)
        assert isinstance(reserve, Reserve)
        assert isinstance(commit, Commit)
        assert commit.sha256 == kept.sha256

    def test_of_two_clients_of_one_merchant_the_older_one_ends(
        self, federation: Federation, server: Server
    ) -> None:
        """A copied site (a restored backup, a cloned machine) must not duel with the original."""
        site = federation.join("harbour")
        older = federation.start_client(site, ToyApplication())
        federation.wait_online({"harbour"})
        copy = Site(federation.folder / "copy" / "harbour")
        shutil.copytree(site.path, copy.path)
        newer = federation.start_client(copy, ToyApplication())
        fault = older.wait()
        assert isinstance(fault, ConflictError)
        assert "took over" in str(fault)
        assert federation.finish(toy_plan(rounds=1, quorum=1)).state == "completed"
        assert newer.fault is None


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
        worker = Worker(site.settings(), store, outbox, contexts, toy, utc_now)
        wire = Wire(member.caller.channel, member.register())
        for task in tasks:
            worker.do(task, wire)


def replace_plan(server: Server, run_id: str, forge: Forge) -> None:
    """What an operator's database could be made to hold; no merchant was asked yet."""
    signed = Signed.parse(server.parts.runs.get(run_id).signed_plan, "the plan")
    forged = forge(signed, server.parts.authority.plan_key).to_bytes()
    with Session(server.parts.engine) as session, session.begin():
        session.execute(update(RunRow).where(RunRow.run_id == run_id).values(signed_plan=forged))
