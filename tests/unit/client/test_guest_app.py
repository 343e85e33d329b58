"""What a foreign app is given, and what of it is kept on the site."""

import datetime as dt
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from hansa.client.allowed_apps import AllowedApps
from hansa.client.guest_app import AppStates, GuestApp, GuestTask
from hansa.core.content import Content
from hansa.core.envelope import Envelope, seal, unseal
from hansa.core.errors import InvalidInputError, NotFoundError, UnauthorisedError
from tests.fakes.guest_apps import CLIENT

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def counted(number: int) -> RecordDict:
    return RecordDict({"state": ConfigRecord({"count": number})})


def count(state: RecordDict) -> int | None:
    return int(str(state.config_records["state"]["count"])) if state.config_records else None


class TestStates:
    def test_a_task_begins_where_the_one_before_ended(self, tmp_path: Path) -> None:
        states = AppStates(tmp_path)
        assert count(states.before("run", "one")) is None
        states.keep("run", "one", counted(1))
        assert count(states.before("run", "two")) == 1
        states.keep("run", "two", counted(2))
        assert count(AppStates(tmp_path).before("run", "three")) == 2

    def test_a_task_that_comes_again_begins_where_it_began(self, tmp_path: Path) -> None:
        """A crash came after the state was kept, and before the answer was."""
        states = AppStates(tmp_path)
        states.keep("run", "one", counted(1))
        states.keep("run", "two", counted(2))
        for _ in range(3):
            assert count(states.before("run", "two")) == 1
            states.keep("run", "two", counted(2))
        assert count(states.before("run", "three")) == 2
        assert count(AppStates(tmp_path).before("first", "one")) is None

    def test_runs_are_apart_and_old_ones_are_forgotten(self, tmp_path: Path) -> None:
        states = AppStates(tmp_path)
        for number in range(60):
            states.keep(f"run-{number}", "one", counted(number))
            assert count(states.before(f"run-{number}", "two")) == number
        assert len(list(tmp_path.iterdir())) <= 41

    def test_a_state_may_hold_what_is_not_finite(self, tmp_path: Path) -> None:
        states = AppStates(tmp_path)
        states.keep("run", "one", RecordDict({"m": MetricRecord({"loss": float("inf")})}))
        assert states.before("run", "two").metric_records["m"]["loss"] == float("inf")


class TestTheList:
    def test_an_entry_is_found_by_its_very_name_with_its_settings(self, tmp_path: Path) -> None:
        apps = AllowedApps(tmp_path / "apps.json")
        apps.allow("shop.app:app", {"partition-id": 0, "rate": 1.0, "on": True}, NOW)
        apps.allow("other.app:app", {}, NOW)
        again = AllowedApps(tmp_path / "apps.json")
        found = again.find("shop.app:app").node_config
        assert found == {"partition-id": 0, "rate": 1.0, "on": True}
        assert {name: type(value) for name, value in found.items()} == {
            "partition-id": int,
            "rate": float,
            "on": bool,
        }
        with pytest.raises(UnauthorisedError, match=r"hansa-client allow-app shop\.app:other"):
            again.find("shop.app:other")

    def test_an_entry_is_replaced_and_taken_away(self, tmp_path: Path) -> None:
        apps = AllowedApps(tmp_path / "apps.json")
        apps.allow("shop.app:app", {"a": 1}, NOW)
        apps.allow("shop.app:app", {"b": 2}, NOW)
        assert [one.node_config for one in apps.all()] == [{"b": 2}]
        apps.forbid("shop.app:app")
        assert apps.all() == ()
        with pytest.raises(NotFoundError, match="not allowed here anyway"):
            apps.forbid("shop.app:app")

    def test_what_is_no_reference_or_no_list_is_refused(self, tmp_path: Path) -> None:
        apps = AllowedApps(tmp_path / "apps.json")
        with pytest.raises(InvalidInputError, match="module:object"):
            apps.allow("shop.app", {}, NOW)
        (tmp_path / "apps.json").write_text('{"apps": [{"app": "x"}]}')
        with pytest.raises(InvalidInputError, match="is damaged"):
            apps.find("x:y")


def task(phase: str) -> GuestTask:
    return GuestTask(
        app=CLIENT,
        task_id=f"run/1/{phase}/harbour",
        run="run",
        merchant="harbour",
        node_id=0,
        phase=phase,
        node_config={"who": "harbour"},
        run_config={},
        now=NOW,
    )


def question(message_type: str) -> bytes:
    content = Content(configs={"question": {"words": ["a"]}})
    return seal(content, Envelope(message_type=message_type, group_id="g")).to_bytes()


def test_a_message_may_come_in_parts_and_its_answer_carries_its_envelope(tmp_path: Path) -> None:
    parts = [Content().to_bytes(), question("query.statistics")]
    answer = Content.from_bytes(GuestApp(tmp_path)(task("query"), parts))
    envelope, content = unseal(answer)
    assert envelope == Envelope(message_type="query.statistics", group_id="g")
    assert content.configs["answer"]["words"] == ["a", "harbour"]


def test_a_message_of_another_kind_than_its_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="another kind"):
        GuestApp(tmp_path)(task("evaluate"), [question("query.statistics")])
