"""Runs that go on from the last release, by the clock or when the model has become worse."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update

from hansa.client.ledger_store import read_ledger
from hansa.core.errors import InvalidInputError
from hansa.core.privacy.entries import Reserve
from hansa.server.scheduler import watch_plan
from hansa.server.state.database import writing
from hansa.server.state.schedules import next_time
from hansa.server.state.tables import ScheduleRow
from tests.fakes.toy_federation import FIRST_MODEL, ToyApplication, toy_plan
from tests.integration.federation_harness import Federation, Server, aggregates, wait_until

pytestmark = pytest.mark.integration

MONDAY_NOON = 1_795_435_200.0 - 1_795_435_200.0 % 86_400 + 43_200


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


def run_ids(server: Server) -> list[str]:
    return [row.run_id for row in server.parts.runs.newest_first()][::-1]


def notes(server: Server) -> list[str]:
    events = server.parts.journal.events()
    return [str(event.body["sentence"]) for event in events if event.kind == "schedule"]


def make_due(server: Server, name: str) -> None:
    """As if its time had come."""
    earlier = ScheduleRow.next_due - 400 * 86_400
    with writing(server.parts.engine) as session:
        session.execute(
            update(ScheduleRow).where(ScheduleRow.name == name).values(next_due=earlier)
        )


class TestAChain:
    def test_a_run_goes_on_from_the_last_release_and_says_so(self, federation: Federation) -> None:
        server = federation.start_server()
        federation.start_clients({federation.join("mill"): ToyApplication(1.0)})
        first = federation.finish(toy_plan(rounds=1, quorum=1, releases=True))
        assert first.parent_version == 0
        second = federation.finish(
            toy_plan(rounds=1, quorum=1, releases=True, begins_with="last-release")
        )
        assert (second.state, second.parent_version) == ("completed", 7)
        (aggregate,) = aggregates(server, second.run_id)
        assert np.array_equal(aggregate["weights"], FIRST_MODEL["weights"] + np.float32(2.0))

    def test_without_a_release_it_fails_and_says_what_to_run_first(
        self, federation: Federation
    ) -> None:
        federation.start_server()
        run = federation.finish(toy_plan(rounds=1, quorum=1, begins_with="last-release"))
        assert run.state == "failed"
        assert "begins with 'base-model' first" in run.sentence


class TestTheClock:
    def test_a_cron_expression_has_five_fields_in_utc(self) -> None:
        assert next_time("0 13 * * *", MONDAY_NOON) == MONDAY_NOON + 3600
        for wrong in ("0 13 * *", "0 13 * * * *", "61 * * * *", "0 0 31 2 *", "soon"):
            with pytest.raises(InvalidInputError, match="cron expression"):
                next_time(wrong, MONDAY_NOON)

    def test_a_due_schedule_begins_a_run_once_and_times_gone_by_count_once(
        self, federation: Federation
    ) -> None:
        server = federation.start_server()
        federation.start_clients({federation.join("mill"): ToyApplication()})
        with federation.operator() as client:
            client.add_schedule("nightly", toy_plan(rounds=1, quorum=1), "0 3 * * *", 0.0)
        assert run_ids(server) == []
        make_due(server, "nightly")
        wait_until("the run", lambda: len(run_ids(server)) == 1)
        federation.wait_for("toy-0001")
        time.sleep(1.5)
        assert run_ids(server) == ["toy-0001"]
        (row,) = server.parts.schedules.everything()
        assert row.last_run == "toy-0001"
        assert row.next_due > time.time()

    def test_a_time_that_comes_while_the_last_run_goes_on_is_skipped_and_noted(
        self, federation: Federation
    ) -> None:
        server = federation.start_server()
        with federation.operator() as client:
            plan = toy_plan(rounds=1, quorum=1, deadline_s=60.0)
            client.add_schedule("nightly", plan, "0 3 * * *", 0.0)
            make_due(server, "nightly")
            wait_until("the run", lambda: len(run_ids(server)) == 1)
            make_due(server, "nightly")
            wait_until("the note", lambda: notes(server) != [])
            assert notes(server) == ["skipped: the run before (toy-0001) has not ended"]
            assert run_ids(server) == ["toy-0001"]
            client.stop_run("toy-0001")
            client.remove_schedule("nightly")
            assert client.schedules() == []


class TestDrift:
    """A toy of step s reports 3s hits of 10s shoppers; the test changes what it reports."""

    def finish_watch(self, federation: Federation, server: Server, count: int) -> None:
        make_due(server, "drifting")
        wait_until("the runs", lambda: len(run_ids(server)) == count)
        for run_id in run_ids(server):
            federation.wait_for(run_id)
        wait_until("the judgement", lambda: len(notes(server)) == 1)
        assert len(server.parts.schedules.watching()) == 0

    def test_only_a_fall_of_the_noised_recall_begins_a_run_and_watching_costs_an_evaluation(
        self, federation: Federation
    ) -> None:
        server = federation.start_server()
        site, toy = federation.join("mill"), Watched()
        federation.start_clients({site: toy})
        plan = toy_plan(rounds=1, quorum=1, releases=True, begins_with="last-release")
        federation.finish(toy_plan(rounds=1, quorum=1, releases=True))
        with federation.operator() as client:
            client.add_schedule("drifting", plan, "0 3 * * *", 0.1)
        self.finish_watch(federation, server, 2)
        assert notes(server)[-1].endswith("at the release 0.3000: fell by 0.0000")
        toy.recall = 0.15
        make_due(server, "drifting")
        wait_until("a run after the watch", lambda: len(run_ids(server)) == 4)
        run = federation.wait_for(run_ids(server)[-1])
        assert (run.state, run.parent_version) == ("completed", 7)
        wait_until("the judgement", lambda: "0.3000: fell by 0.1500" in notes(server)[-1])
        bodies = [entry.body for entry in read_ledger(site.ledger).entries]
        phases = [body.phase for body in bodies if isinstance(body, Reserve)]
        assert phases == ["train", "evaluate", "evaluate", "evaluate", "train", "evaluate"]

    def test_a_plan_that_lets_no_metric_leave_cannot_be_watched(
        self, federation: Federation
    ) -> None:
        federation.start_server()
        with (
            pytest.raises(InvalidInputError, match="evaluation_noise_multiplier"),
            federation.operator() as client,
        ):
            client.add_schedule("blind", toy_plan(rounds=1, quorum=1), "0 3 * * *", 0.1)

    def test_a_watch_has_no_rounds_and_the_evaluations_cost_alone(self) -> None:
        from hansa.core.privacy.plan import PrivacyPlan

        watch = watch_plan(toy_plan(releases=True))
        assert watch.federation.rounds == 0
        assert PrivacyPlan.of(watch).run_events() == (PrivacyPlan.of(watch).evaluation_event(),)


class Watched(ToyApplication):
    """Reports whatever recall the test says."""

    recall = 0.3

    def quality(self) -> dict[str, float]:
        return {"recall-at-10-sum": 10.0 * self.recall, "shoppers": 10.0}
