"""Users' Flower apps over real gRPC: allowed by name, unchanged, declared, replayed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from sqlalchemy import update
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from hansa.audit.verifier import verify
from hansa.client.allowed_apps import AllowedApps
from hansa.client.budget import read_budget
from hansa.client.ledger_store import read_ledger
from hansa.client.node.guests import Guests
from hansa.client.site import Site
from hansa.core.content import Content
from hansa.core.errors import NotFoundError, UnauthorisedError
from hansa.core.evidence import read_pack
from hansa.core.flower_plan import FlowerPlan
from hansa.core.privacy.entries import Declare
from hansa.core.settings_text import Setting
from hansa.core.signing import Signed
from hansa.server.cli import app as server_command
from hansa.server.state.tables import RunRow
from tests.fakes import guest_apps
from tests.fakes.guest_apps import CLIENT, SERVER
from tests.fakes.toy_federation import ToyApplication
from tests.integration.federation_harness import (
    Federation,
    Server,
    refused,
    utc_now,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    guest_apps.HOLD.clear()
    guest_apps.ENTERED.clear()
    for seen in (guest_apps.SEEN, guest_apps.ANSWERS, guest_apps.DRAWN):
        seen.clear()
    with Federation(tmp_path) as federation:
        yield federation
        guest_apps.HOLD.set()


@pytest.fixture
def server(federation: Federation) -> Server:
    return federation.start_server()


def app(name: str) -> str:
    return f"tests.fakes.guest_apps:{name}"


def app_plan(
    server_app: str = SERVER,
    client_app: str = CLIENT,
    *,
    rounds: int = 2,
    quorum: int = 1,
    deadline_s: float = 20.0,
    **config: Setting,
) -> FlowerPlan:
    return FlowerPlan(
        name="guest",
        server_app=server_app,
        client_app=client_app,
        config={"num-server-rounds": rounds, **config},
        quorum=quorum,
        deadline_s=deadline_s,
    )


def guest(
    federation: Federation,
    name: str,
    allowed: Mapping[str, dict[str, Setting]] | None = None,
    **node_config: Setting,
) -> Site:
    """A merchant that allows apps, by default the client of these tests."""
    site = federation.join(name)
    for ref, config in (allowed or {CLIENT: node_config}).items():
        AllowedApps(site.allowed_apps).allow(ref, config, utc_now())
    return site


def start(federation: Federation, *sites: Site) -> None:
    federation.start_clients({site: ToyApplication() for site in sites})


def result(federation: Federation, run_id: str) -> dict[str, np.ndarray]:
    with federation.operator() as client:
        return dict(Content.from_bytes(client.arrays(run_id)).arrays["arrays"])


class TestAnAppOnThePlane:
    def test_it_runs_unchanged_and_leaves_its_result(
        self, federation: Federation, server: Server
    ) -> None:
        """Two rounds of the mean of steps 1 and 3: 4 more than the start."""
        federation.allow(SERVER, CLIENT)
        sites = [guest(federation, "harbour", step=1.0), guest(federation, "mill", step=3)]
        start(federation, *sites)
        run = federation.finish(app_plan())
        assert (run.state, run.rounds_done, run.rounds_planned) == ("completed", 2, 2)
        for row in run.rounds:
            assert sorted(row.accepted) == ["harbour", "mill"]
        arrays = result(federation, run.run_id)
        assert list(arrays) == ["w", "b"]
        np.testing.assert_array_equal(arrays["w"], np.full(3, 4.0, np.float32))
        np.testing.assert_array_equal(arrays["b"], np.float32(4.5))

    def test_the_app_sees_what_plan_and_merchant_say_and_nothing_of_the_site(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(SERVER, CLIENT)
        start(
            federation,
            guest(federation, "harbour", **{"partition-id": 0}),
            guest(federation, "mill", **{"partition-id": 1, "data": "x.csv"}),
        )
        run = federation.finish(app_plan(rounds=1, rate=1.0, lively=True, text="1"))
        assert run.state == "completed", run.sentence
        seen = sorted(guest_apps.SEEN, key=lambda one: len(str(one["node_config"])))
        assert [one["node_config"] for one in seen] == [
            {"partition-id": 0},
            {"partition-id": 1, "data": "x.csv"},
        ]
        expected = {"num-server-rounds": 1, "rate": 1.0, "lively": True, "text": "1"}
        for one in seen:
            assert one["run_config"] == expected
            types = {name: type(value) for name, value in dict(one["run_config"]).items()}  # type: ignore[call-overload]
            assert types == {name: type(value) for name, value in expected.items()}
            assert one["node_id"] == one["dst"]
        names = server.parts.members.names()
        assert {names[int(str(one["node_id"]))] for one in seen} == {"harbour", "mill"}

    def test_its_state_lasts_from_round_to_round_and_over_a_restart_of_the_client(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(SERVER, CLIENT)
        one, two = guest(federation, "harbour"), guest(federation, "mill", hold=2)
        start(federation, two)
        first = federation.start_client(one, ToyApplication())
        federation.wait_online({"harbour"})
        run_id = federation.launch(app_plan(rounds=4))
        assert guest_apps.ENTERED.wait(20)
        first.tell_to_stop()
        first.wait()
        federation.start_client(one, ToyApplication())
        federation.wait_online({"harbour"})
        guest_apps.HOLD.set()
        assert federation.wait_for(run_id).state == "completed"
        assert [row["count"] for row in guest_apps.SEEN].count(4) == 2
        assert federation.wait_for(federation.launch(app_plan(rounds=1))).state == "completed"
        assert [row["count"] for row in guest_apps.SEEN[-2:]] == [1, 1]

    def test_queries_with_actions_and_groups_by_push_and_pull(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(app("asking"), CLIENT)
        start(
            federation,
            guest(federation, "harbour", who="harbour"),
            guest(federation, "mill", who="mill"),
        )
        run = federation.finish(app_plan(app("asking")))
        assert run.state == "completed", run.sentence
        names = server.parts.members.names()
        found = {names[node]: sorted(words) for node, words in guest_apps.ANSWERS.items()}
        assert found == {name: [f"first-{name}", f"second-{name}"] for name in ("harbour", "mill")}
        with pytest.raises(NotFoundError, match="no arrays"), federation.operator() as client:
            client.arrays(run.run_id)

    def test_a_strategy_that_needs_losses_runs_in_an_app_of_ones_own(
        self, federation: Federation, server: Server
    ) -> None:
        """With loss 1/2, q 1/2 and steps of norm 2, q-FedAvg goes a fifth of each step."""
        own = app("fair_client")
        federation.allow(app("fair"), own)
        start(federation, *(guest(federation, name, {own: {}}) for name in ("harbour", "mill")))
        run = federation.finish(app_plan(app("fair"), own))
        assert run.state == "completed", run.sentence
        np.testing.assert_allclose(result(federation, run.run_id)["w"], 0.4, rtol=1e-6)

    def test_an_app_of_flowers_older_interfaces_runs_too(
        self, federation: Federation, server: Server
    ) -> None:
        """Its arrays of the second round went out with 1 more than the start."""
        own = app("older_client")
        federation.allow(app("older_server"), own)
        start(federation, *(guest(federation, name, {own: {}}) for name in ("harbour", "mill")))
        run = federation.finish(app_plan(app("older_server"), own))
        assert (run.state, run.rounds_done) == ("completed", 2), run.sentence
        assert [sorted(row.accepted) for row in run.rounds] == [["harbour", "mill"]] * 2
        (arrays,) = result(federation, run.run_id).values()
        np.testing.assert_array_equal(arrays, np.ones(3, np.float32))


class TestMods:
    def test_flowers_clipping_mod_clips_what_the_wrapper_says(
        self, federation: Federation, server: Server
    ) -> None:
        """A step of 3 in four numbers has norm 6; clipped to 1, each moves by a half."""
        own = app("clipping_client")
        federation.allow(app("clipped"), own)
        sites = [guest(federation, name, {own: {"step": 3.0}}) for name in ("harbour", "mill")]
        start(federation, *sites)
        run = federation.finish(app_plan(app("clipped"), own))
        assert run.state == "completed", run.sentence
        np.testing.assert_allclose(result(federation, run.run_id)["w"], 0.5, rtol=1e-5)

    def test_other_mods_wrap_the_app_as_under_flower(
        self, federation: Federation, server: Server
    ) -> None:
        """Local DP clips a step of norm 6 to 1, and its noise is negligible here."""
        moves = {app("noising_client"): 0.5, app("sizing_client"): 3.0}
        federation.allow(SERVER, *moves)
        allowed: dict[str, dict[str, Setting]] = {ref: {"step": 3.0} for ref in moves}
        start(federation, *(guest(federation, one, allowed) for one in ("harbour", "mill")))
        for ref, moved in moves.items():
            run = federation.finish(app_plan(client_app=ref, rounds=1))
            assert run.state == "completed", run.sentence
            np.testing.assert_allclose(result(federation, run.run_id)["w"], moved, atol=0.01)


class TestWhatTheBooksSay:
    def test_each_release_is_declared_and_no_epsilon_claimed(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(SERVER, CLIENT)
        sites = [guest(federation, name) for name in ("harbour", "mill")]
        start(federation, *sites)
        run = federation.finish(app_plan(rounds=2))
        entries = read_ledger(sites[0].ledger).entries[2:]
        bodies = [entry.body for entry in entries]
        assert all(isinstance(body, Declare) for body in bodies)
        assert [(body.phase, body.round) for body in bodies if isinstance(body, Declare)] == [
            ("train", 1),
            ("evaluate", 1),
            ("train", 2),
            ("evaluate", 2),
        ]
        budget = read_budget(sites[0], utc_now())
        assert float(budget.epsilon_spent) == 0.0
        assert [(one.run, one.app, one.declared) for one in budget.runs] == [
            (run.run_id, CLIENT, 4)
        ]

    def test_the_auditor_finds_every_release_declared_and_says_that_epsilon_has_no_part(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(SERVER, CLIENT)
        sites = [guest(federation, name) for name in ("harbour", "mill")]
        start(federation, *sites)
        run = federation.finish(app_plan(rounds=2))
        with federation.operator() as client:
            pack = read_pack(client.pack(run.run_id))
        report = verify(pack, plan_key=sites[0].settings().plan_public_key)
        assert [check for check in report.checks if not check.passed] == []
        assert [spend.declared for spend in report.spends] == [4, 4]
        named = [one for one in report.checks if one.name == "releases outside epsilon are named"]
        assert "epsilon does not count them" in named[0].detail
        first = pack.run.rounds[0]
        forged = first.model_copy(update={"accepted": {**first.accepted, "mill": "0" * 64}})
        rounds = (forged, *pack.run.rounds[1:])
        edited = pack.model_copy(update={"run": pack.run.model_copy(update={"rounds": rounds})})
        failed = [one for one in verify(edited).checks if not one.passed]
        assert "not the one that was declared" in failed[0].detail
        assert "other updates went into the aggregate by log entry" in failed[1].detail

    def test_a_release_that_the_merchant_does_not_declare_is_not_taken(
        self, federation: Federation, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Guests, "_declare", lambda *_: None)
        federation.allow(SERVER, CLIENT)
        start(federation, *(guest(federation, name) for name in ("harbour", "mill")))
        run = federation.finish(app_plan(deadline_s=3.0))
        assert run.state == "failed"
        assert "round 1 has 0 valid answers" in run.sentence


class TestWhoMayRun:
    def test_the_operators_list_must_name_both_halves(
        self, federation: Federation, server: Server
    ) -> None:
        for listed in ((), (SERVER,), (CLIENT,)):
            settings = federation.state.settings()
            federation.state.write(settings.model_copy(update={"allowed_apps": listed}))
            with pytest.raises(UnauthorisedError, match="is not on the list of allowed apps"):
                federation.launch(app_plan())

    def test_an_app_that_is_forbidden_while_it_waits_does_not_begin(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(SERVER, CLIENT, app("computing"))
        busy = federation.launch(app_plan(app("computing")))
        assert guest_apps.ENTERED.wait(20)
        waiting = federation.launch(app_plan())
        settings = federation.state.settings()
        federation.state.write(settings.model_copy(update={"allowed_apps": ()}))
        guest_apps.HOLD.set()
        assert federation.wait_for(busy).state == "completed"
        run = federation.wait_for(waiting)
        assert run.state == "failed"
        assert "is not on the list of allowed apps" in run.sentence

    def test_a_merchant_that_did_not_allow_it_refuses_by_name_and_trains_nothing(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(SERVER, CLIENT)
        shut = guest(federation, "shut", {app("fair_client"): {}})
        start(federation, shut, guest(federation, "harbour"), guest(federation, "mill"))
        run = federation.finish(app_plan(rounds=1, **{"min-nodes": 3}))
        assert run.state == "completed"
        assert refused(run.rounds[0]) == {"shut": "contract"}
        (task,) = run.rounds[0].refused
        assert f"does not allow the app {CLIENT!r}" in task.sentence
        assert len(guest_apps.SEEN) == 2
        assert len(read_ledger(shut.ledger).entries) == 2

    def test_a_server_app_that_cannot_run_fails_the_run_in_a_sentence(
        self, federation: Federation, server: Server
    ) -> None:
        cases = {
            "tests.fakes.no_such_module:app": "no module 'tests.fakes.no_such_module' here",
            app("missing"): "has no 'missing'",
            app("NUMBER"): "is int, no Flower ServerApp",
            CLIENT: "is ClientApp, no Flower ServerApp",
            app("broken"): "ended with ZeroDivisionError: division by zero",
        }
        federation.allow(*cases, CLIENT)
        for ref, sentence in cases.items():
            run = federation.finish(app_plan(ref))
            assert run.state == "failed"
            assert sentence in run.sentence

    def test_a_client_app_that_cannot_be_loaded_is_refused_without_a_word_of_the_site(
        self, federation: Federation, server: Server
    ) -> None:
        apps = [app(name) for name in ("missing", "NUMBER", "server")]
        federation.allow(SERVER, *apps)
        sites = [guest(federation, one, {ref: {} for ref in apps}) for one in ("a", "b")]
        start(federation, *sites)
        for ref in apps:
            run = federation.finish(app_plan(client_app=ref, rounds=1))
            assert run.state == "failed"
            assert "round 1 has 0 valid answers" in run.sentence
            assert "cannot be loaded on this site; its log says why" in run.sentence

    def test_a_plan_edited_after_signing_runs_nowhere(
        self, federation: Federation, server: Server
    ) -> None:
        """Whoever rules the server's disk changes a setting, but has not the merchants' trust."""
        federation.allow(SERVER, CLIENT, app("computing"))
        start(federation, *(guest(federation, name) for name in ("harbour", "mill")))
        busy = federation.launch(app_plan(app("computing")))
        assert guest_apps.ENTERED.wait(20)
        run_id = federation.launch(app_plan(noise=1.0))
        signed = Signed.parse(server.parts.runs.get(run_id).signed_plan, "the plan")
        payload = {**signed.payload, "config": {"num-server-rounds": 1, "noise": 0}}
        edited = signed.model_copy(update={"payload": payload}).to_bytes()
        with Session(server.parts.engine) as session, session.begin():
            session.execute(
                update(RunRow).where(RunRow.run_id == run_id).values(signed_plan=edited)
            )
        guest_apps.HOLD.set()
        federation.wait_for(busy)
        run = federation.wait_for(run_id)
        assert run.state == "failed"
        assert "harbour: contract: " in run.sentence
        assert guest_apps.SEEN == []


class TestRoundsThatFail:
    def test_all_errors_fail_the_run_with_the_kind_of_each_and_nothing_private(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(SERVER, CLIENT)
        start(federation, *(guest(federation, one, fail=True) for one in ("harbour", "mill")))
        run = federation.finish(app_plan())
        assert run.state == "failed"
        assert "harbour: failed: RuntimeError; mill: failed: RuntimeError" in run.sentence
        assert "4711" not in json.dumps([str(row) for row in run.rounds]) + run.sentence

    def test_one_error_leaves_the_round_to_the_others_unless_the_quorum_says_more(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(SERVER, CLIENT)
        start(federation, guest(federation, "harbour"), guest(federation, "mill", fail=True))
        assert federation.finish(app_plan(rounds=1)).state == "completed"
        run = federation.finish(app_plan(rounds=1, quorum=2))
        assert run.state == "failed"
        assert "round 1 has 1 valid answers, the plan's quorum is 2" in run.sentence

    def test_an_app_without_a_train_function_fails_at_once(
        self, federation: Federation, server: Server
    ) -> None:
        own = app("no_train")
        federation.allow(SERVER, own)
        start(federation, *(guest(federation, one, {own: {}}) for one in ("harbour", "mill")))
        run = federation.finish(app_plan(client_app=own))
        assert run.state == "failed"
        assert "harbour: failed: ValueError" in run.sentence


class TestStopping:
    def test_an_app_that_catches_everything_is_ended(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(app("stubborn"), CLIENT)
        start(federation, guest(federation, "harbour", hold=2))
        run_id = federation.launch(app_plan(app("stubborn")))
        assert guest_apps.ENTERED.wait(20)
        with federation.operator() as client:
            client.stop_run(run_id)
        assert federation.wait_for(run_id).state == "stopped"

    def test_an_app_that_never_looks_up_is_cut_off(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(app("computing"), CLIENT)
        run_id = federation.launch(app_plan(app("computing")))
        assert guest_apps.ENTERED.wait(20)
        with federation.operator() as client:
            client.stop_run(run_id)
        assert federation.wait_for(run_id).state == "stopped"


class TestAnAppThatTrainsNothing:
    def test_its_arrays_are_kept_and_its_books_name_no_round(
        self, federation: Federation, server: Server
    ) -> None:
        federation.allow(app("measuring"), CLIENT)
        sites = [guest(federation, name) for name in ("harbour", "mill")]
        start(federation, *sites)
        run = federation.finish(app_plan(app("measuring")))
        assert (run.state, run.rounds_done, len(run.rounds)) == ("completed", 0, 0), run.sentence
        assert "see 'hansa-server run arrays'" in run.sentence
        np.testing.assert_array_equal(result(federation, run.run_id)["w"], np.zeros(3, np.float32))
        with federation.operator() as client:
            pack = read_pack(client.pack(run.run_id))
        report = verify(pack, plan_key=sites[0].settings().plan_public_key)
        assert [check for check in report.checks if not check.passed] == []


class TestTheOperatorsCommand:
    def test_a_plan_of_an_app_is_started_from_its_file(
        self, federation: Federation, server: Server, tmp_path: Path
    ) -> None:
        federation.allow(SERVER, CLIENT)
        start(federation, *(guest(federation, name) for name in ("harbour", "mill")))
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(app_plan(rounds=1).model_dump()))
        words = ["run", "start", str(path), "--state", str(federation.state.path)]
        done = CliRunner().invoke(server_command, words)
        assert done.exit_code == 0, done.output
        assert "guest-0001: completed" in done.output


class TestAServerThatCrashes:
    def crash_in_round_two(
        self, federation: Federation, plan: FlowerPlan, *, names: tuple[str, ...]
    ) -> str:
        """Stops the server while everybody trains for the second time, and starts another."""
        federation.allow(plan.server_app, plan.client_app)
        first = federation.start_server()
        start(federation, *(guest(federation, name, hold=2) for name in names))
        run_id = federation.launch(plan)
        assert guest_apps.ENTERED.wait(20)
        first.stop()
        guest_apps.HOLD.set()
        federation.start_server()
        return run_id

    def test_the_app_begins_anew_finds_its_answers_and_nobody_trains_twice(
        self, federation: Federation
    ) -> None:
        run_id = self.crash_in_round_two(federation, app_plan(rounds=3), names=("harbour", "mill"))
        run = federation.wait_for(run_id)
        assert run.state == "completed", run.sentence
        assert [row["count"] for row in guest_apps.SEEN] == [1, 1, 2, 2, 3, 3]
        np.testing.assert_array_equal(result(federation, run_id)["w"], np.full(3, 3, np.float32))

    def test_its_random_numbers_and_its_choice_of_nodes_are_those_of_the_first_time(
        self, federation: Federation
    ) -> None:
        """Two of five are asked each round; the first model is drawn without a seed."""
        names = ("a", "b", "c", "d", "e")
        federation.allow(app("drawing"), CLIENT)
        first = federation.start_server()
        start(federation, *(guest(federation, name, hold=1) for name in names))
        run_id = federation.launch(app_plan(app("drawing")))
        assert guest_apps.ENTERED.wait(20)
        first.stop()
        guest_apps.HOLD.set()
        second = federation.start_server()
        run = federation.wait_for(run_id)
        assert run.state == "completed", run.sentence
        assert len(guest_apps.DRAWN) == 2
        assert guest_apps.DRAWN[0] == guest_apps.DRAWN[1]
        assert [len(row.cohort) for row in run.rounds][-1] >= 1
        assert second.parts.runs.get(run_id).state == "completed"

    def test_an_app_that_takes_another_course_fails_the_run(self, federation: Federation) -> None:
        run_id = self.crash_in_round_two(
            federation, app_plan(app("unsteady"), rounds=3), names=("harbour", "mill")
        )
        run = federation.wait_for(run_id)
        assert run.state == "failed"
        assert "ran again after the server restarted, and sent something else" in run.sentence
        assert "train round 1" in run.sentence
