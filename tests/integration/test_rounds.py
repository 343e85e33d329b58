"""Whole runs over real gRPC: a real server, real clients and ledgers, a model of four numbers."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from hansa.audit.verifier import verify
from hansa.client.ledger_store import read_ledger
from hansa.core.content import Content
from hansa.core.errors import UnauthorisedError
from hansa.core.evidence import read_pack
from hansa.core.ids import MerchantId
from hansa.core.plan import RunPlan
from hansa.core.privacy.entries import Refuse
from tests.fakes.toy_federation import (
    ToyApplication,
    ToyReleases,
    toy_plan,
    with_arrays,
)
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Federation,
    Server,
    aggregates,
    refused,
    wait_until,
)
from tests.integration.raw_member import raw_member
from tests.integration.round_checks import assert_same, bodies, moved, reserved_rounds

pytestmark = pytest.mark.integration


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


@pytest.fixture
def server(federation: Federation) -> Server:
    return federation.start_server()


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
