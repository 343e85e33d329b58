"""Who is asked, who is not waited for, and who is left out: over real gRPC."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.toy_federation import ToyApplication, toy_plan, with_arrays
from tests.integration.federation_harness import Federation, Server, aggregates, refused

pytestmark = pytest.mark.integration


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


@pytest.fixture
def server(federation: Federation) -> Server:
    return federation.start_server()


rubbish = with_arrays(lambda arrays: {**arrays, "weights": np.full(3, np.nan, np.float32)})


class TestACohort:
    def test_a_round_closes_when_it_is_full_and_names_the_straggler_without_a_fault(
        self, federation: Federation, server: Server
    ) -> None:
        released = threading.Event()
        slow = ToyApplication(hold=released)
        toys = {federation.join("slow"): slow}
        toys |= {federation.join(name): ToyApplication(1.0) for name in ("harbour", "market")}
        federation.start_clients(toys)
        plan = toy_plan(rounds=1, quorum=2, cohort=2, over_selection=0.5, deadline_s=60.0)
        try:
            run = federation.finish(plan)
        finally:
            released.set()
        assert run.state == "completed"
        assert sorted(run.rounds[0].cohort) == ["harbour", "market", "slow"]
        assert sorted(run.rounds[0].accepted) == ["harbour", "market"]
        assert refused(run.rounds[0]) == {"slow": "surplus"}

    def test_an_invalid_update_does_not_count_towards_it(
        self, federation: Federation, server: Server
    ) -> None:
        toys = {federation.join("broken"): ToyApplication(change=rubbish)}
        toys |= {federation.join(name): ToyApplication(1.0) for name in ("harbour", "market")}
        federation.start_clients(toys)
        run = federation.finish(toy_plan(rounds=2, quorum=2, cohort=2, over_selection=0.5))
        assert [sorted(row.accepted) for row in run.rounds] == [["harbour", "market"]] * 2

    def test_only_as_many_are_asked_as_the_plan_wants(
        self, federation: Federation, server: Server
    ) -> None:
        names = ["harbour", "market", "mill", "quarry"]
        federation.start_clients({federation.join(name): ToyApplication() for name in names})
        run = federation.finish(toy_plan(rounds=6, quorum=2, cohort=2))
        assert [len(row.cohort) for row in run.rounds] == [2] * 6
        assert len({name for row in run.rounds for name in row.cohort}) > 2


class TestQuarantine:
    def test_a_merchant_that_sends_rubbish_is_left_out_named_and_let_in_again(
        self, federation: Federation, server: Server
    ) -> None:
        broken = ToyApplication(change=rubbish)
        federation.start_clients(
            {federation.join("broken"): broken, federation.join("harbour"): ToyApplication(1.0)}
        )
        rule = {"faults": 2, "rounds": 2}
        run = federation.finish(toy_plan(rounds=6, quorum=1, quarantine=rule))
        assert run.state == "completed"
        assert [refused(row).get("broken") for row in run.rounds] == [
            "rejected",
            "rejected",
            "quarantine",
            "quarantine",
            "rejected",
            "quarantine",
        ]
        assert broken.rounds == [1, 2, 5]
        notes = [event for event in server.parts.journal.events() if event.kind == "quarantine"]
        assert [note.body["sentence"] for note in notes] == [
            "broken is left out until round 4",
            "broken is left out until round 7",
        ]

    def test_a_round_with_no_valid_update_fails_loudly_and_says_who_sent_what(
        self, federation: Federation, server: Server
    ) -> None:
        federation.start_clients({federation.join("broken"): ToyApplication(change=rubbish)})
        run = federation.finish(toy_plan(rounds=1, quorum=1))
        assert run.state == "failed"
        assert "broken: rejected: array 'weights' holds values that are not finite" in run.sentence
        assert aggregates(server, run.run_id) == []
