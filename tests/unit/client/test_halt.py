import datetime as dt
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hansa.client.cli import app
from hansa.client.halt import HaltSwitch
from hansa.client.interruption import WorkInterruptedError, check_wanted, interruptible
from hansa.client.participation import Participation
from hansa.client.site import Site, SiteSettings
from hansa.core.errors import InvalidInputError, UnauthorisedError

NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)


@pytest.fixture
def switch(tmp_path: Path) -> HaltSwitch:
    return HaltSwitch(tmp_path / "stopped.json")


class Node:
    """Runs until it is told; remembers how it was told."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.running = threading.Event()
        self.aborted = False
        self._fault = fault

    def run(self, stop: threading.Event, abort: threading.Event) -> None:
        self.running.set()
        if self._fault is not None:
            raise self._fault
        assert stop.wait(20)
        self.aborted = abort.is_set()


class TestTheSwitch:
    def test_it_stays_set_with_its_reason_until_it_is_cleared(self, switch: HaltSwitch) -> None:
        switch.set(at_once=True, reason="audit", now=NOW)
        again = HaltSwitch(switch._path).read()
        assert again is not None
        assert (again.since, again.at_once, again.reason) == (NOW, True, "audit")
        assert switch.clear()
        assert switch.read() is None
        assert not switch.clear()

    def test_a_damaged_file_stops_the_site_and_says_how_to_go_on(self, switch: HaltSwitch) -> None:
        switch._path.write_text("{")
        assert switch.is_set()
        with pytest.raises(InvalidInputError, match="hansa-client resume"):
            switch.read()


class TestParticipation:
    def start(
        self, switch: HaltSwitch, nodes: list[Node]
    ) -> tuple[threading.Thread, threading.Event]:
        stop, left = threading.Event(), iter(nodes)
        participation = Participation(switch, lambda: next(left))
        thread = threading.Thread(target=participation.run, args=(stop,))
        thread.start()
        return thread, stop

    def test_a_stopped_site_does_not_even_connect_and_takes_part_once_it_may(
        self, switch: HaltSwitch
    ) -> None:
        switch.set(at_once=False, reason="", now=NOW)
        node = Node()
        thread, stop = self.start(switch, [node])
        time.sleep(0.7)
        assert not node.running.is_set()
        switch.clear()
        assert node.running.wait(20)
        stop.set()
        thread.join(20)
        assert not thread.is_alive()

    @pytest.mark.parametrize("at_once", [True, False])
    def test_the_switch_ends_the_node_and_clearing_it_begins_another(
        self, switch: HaltSwitch, at_once: bool
    ) -> None:
        first, second = Node(), Node()
        thread, stop = self.start(switch, [first, second])
        assert first.running.wait(20)
        switch.set(at_once=at_once, reason="", now=NOW)
        time.sleep(1.5)
        assert first.aborted is at_once
        switch.clear()
        assert second.running.wait(20)
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
        assert not second.aborted

    @pytest.mark.parametrize(
        "fault", [UnauthorisedError("revoked"), ValueError("nobody foresaw this"), KeyError("nor")]
    )
    def test_whatever_ends_the_node_does_not_end_the_caller(
        self, switch: HaltSwitch, fault: Exception
    ) -> None:
        node = Node(fault)
        thread, stop = self.start(switch, [node])
        assert node.running.wait(20)
        thread.join(0.2)
        assert thread.is_alive()
        stop.set()
        thread.join(20)
        assert not thread.is_alive()

    def test_after_a_fault_that_nobody_foresaw_stopping_and_resuming_begins_anew(
        self, switch: HaltSwitch, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second = Node(ValueError("nobody foresaw this")), Node()
        thread, stop = self.start(switch, [first, second])
        assert first.running.wait(20)
        switch.set(at_once=False, reason="", now=NOW)
        time.sleep(0.7)
        switch.clear()
        assert second.running.wait(20)
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
        assert "nobody foresaw this" in caplog.text


class TestInterruption:
    def test_work_that_asks_ends_as_soon_as_it_is_unwanted(self) -> None:
        unwanted = threading.Event()
        with interruptible(unwanted.is_set):
            check_wanted()
            unwanted.set()
            with pytest.raises(WorkInterruptedError):
                check_wanted()
        check_wanted()


class TestTheCommands:
    def test_stop_and_resume_speak_of_the_sites_switch(self, tmp_path: Path) -> None:
        site, run = Site(tmp_path), CliRunner()
        settings = {"merchant": "mill", "server_address": "127.0.0.1:1", "base_models": {}}
        site.write(SiteSettings.model_validate({**settings, "plan_public_key": "0" * 64}))
        stopped = run.invoke(app, ["stop", "--now", "--reason", "audit", "--site", str(tmp_path)])
        assert stopped.exit_code == 0
        halt = HaltSwitch(site.halt).read()
        assert halt is not None
        assert (halt.at_once, halt.reason) == (True, "audit")
        assert "takes part" in run.invoke(app, ["resume", "--site", str(tmp_path)]).stdout
        assert "was not stopped" in run.invoke(app, ["resume", "--site", str(tmp_path)]).stdout
