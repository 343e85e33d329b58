"""Both loops over a real database: who joins meanwhile, what a restart finds, who is at fault."""

from functools import partial

import numpy as np
import pytest

from hansa.core.errors import QuorumNotMetError
from hansa.core.ids import MerchantId
from hansa.core.update import Arrays
from hansa.server.rounds.checkpoints import Checkpoints
from hansa.server.state.tasks import Outcome
from tests.fakes.plane_world import RUN, PlaneWorld, meanwhile, wait_for
from tests.fakes.toy_federation import FIRST_MODEL, toy_plan

A1, B1 = "run/1/train/a", "run/1/train/b"


class PowerCut(BaseException):
    """Before the checkpoint."""


def test_a_merchant_may_join_while_a_round_waits_for_its_quorum(tmp_path) -> None:
    world = PlaneWorld(tmp_path, toy_plan(rounds=1, quorum=2), names="a")
    parts = world.parts()
    eligible = parts.grid.get_node_ids

    def joins_after_the_first_look() -> list[int]:
        found = eligible()
        if "late" not in world.members.names().values():
            world.join("late")
        return found

    parts.grid.get_node_ids = joins_after_the_first_look  # type: ignore[method-assign]
    meanwhile(
        lambda: wait_for(lambda: world.is_open(A1, "run/1/train/late")),
        lambda: [world.answer(task) for task in (A1, "run/1/train/late")],
    )
    world.run_loop(parts)
    assert sorted(world.runs.rounds(RUN)[0].accepted) == ["a", "late"]


def test_a_merchant_may_join_while_a_buffer_fills(tmp_path) -> None:
    plan = toy_plan(rounds=1, quorum=2, asynchronous={"updates": 2})
    world = PlaneWorld(tmp_path, plan, names="a")
    meanwhile(
        lambda: wait_for(lambda: world.is_open(A1)),
        lambda: world.join("late"),
        lambda: wait_for(lambda: world.is_open("run/1/train/late")),
        lambda: [world.answer(task) for task in ("run/1/train/late", A1)],
    )
    world.run_loop()
    assert sorted(world.runs.rounds(RUN)[0].accepted) == ["a", "late"]


@pytest.mark.parametrize("mode", [{}, {"asynchronous": {"updates": 2}}], ids=["rounds", "buffer"])
def test_what_merchants_paid_for_while_the_server_was_down_past_a_deadline_still_counts(
    tmp_path, mode
) -> None:
    """They come back after the server has looked at its tasks for some time."""
    world = PlaneWorld(tmp_path, toy_plan(rounds=1, quorum=2, deadline_s=15.0, **mode))
    world.run_until(lambda: world.is_open(A1, B1))
    world.tasks.postpone(RUN, "train", world.clock() - 100.0)
    looks = []
    states = world.tasks.states

    def noted(task_ids):
        looks.append(task_ids)
        return states(task_ids)

    world.tasks.states = noted  # type: ignore[method-assign]
    outcomes: list[Outcome] = []
    back = meanwhile(
        lambda: wait_for(lambda: len(looks) >= 3),
        lambda: outcomes.extend(world.answer(task) for task in (A1, B1)),
    )
    world.run_loop()
    back.join()
    assert outcomes == [Outcome.ACCEPTED] * 2
    assert sorted(world.runs.rounds(RUN)[0].accepted) == ["a", "b"]


class TestTheStepOfAStrategyThatRemembers:
    """FedAdam notes in ``configure_train`` with which model its step begins."""

    PLAN = toy_plan(
        rounds=2,
        quorum=2,
        strategy="FedAdam",
        options={"eta": 0.1},
        tail_fraction=0.01,
        asynchronous={"updates": 2, "staleness_exponent": 0.0},
    )

    def answer_round(self, world: PlaneWorld, number: int) -> None:
        tasks = [f"run/{number}/train/{name}" for name in "ab"]
        wait_for(lambda: world.is_open(*tasks))
        kept = Checkpoints(RUN, world.runs, world.blobs)
        base = FIRST_MODEL if number == 1 else kept.aggregate(kept.records()[-1])
        for task in tasks:
            world.answer(task, base=base)

    def result(self, world: PlaneWorld, *numbers: int) -> Arrays:
        work = meanwhile(*[partial(self.answer_round, world, number) for number in numbers])
        model = world.run_loop()
        work.join()
        return model

    @pytest.mark.parametrize("number", [1, 2])
    def test_it_is_the_same_after_a_restart_that_finds_the_buffer_full(
        self, tmp_path, number
    ) -> None:
        (tmp_path / "whole").mkdir()
        (tmp_path / "broken").mkdir()
        expected = self.result(PlaneWorld(tmp_path / "whole", self.PLAN), 1, 2)
        world = PlaneWorld(tmp_path / "broken", self.PLAN)
        before = meanwhile(*[partial(self.answer_round, world, one) for one in range(1, number)])
        world.run_until(lambda: world.is_open(*[f"run/{number}/train/{name}" for name in "ab"]))
        before.join()
        self.answer_round(world, number)
        model = self.result(world, *range(number + 1, 3))
        for name, array in expected.items():
            assert np.array_equal(model[name], array)


class TestABufferThatNobodyCanFill:
    def plan(self, quorum: int):
        return toy_plan(rounds=1, quorum=quorum, deadline_s=3600.0, asynchronous={"updates": 2})

    def fault_and_answer(self, world: PlaneWorld) -> None:
        meanwhile(
            lambda: wait_for(lambda: world.is_open(A1, B1)),
            lambda: world.refuse(A1, "interrupted"),
            lambda: world.answer(B1),
        )

    def test_a_quorum_of_updates_is_aggregated_when_nobody_else_can_answer(self, tmp_path) -> None:
        world = PlaneWorld(tmp_path, self.plan(quorum=1))
        self.fault_and_answer(world)
        world.run_loop()
        (record,) = world.runs.rounds(RUN)
        assert list(record.accepted) == ["b"]
        assert record.refused[MerchantId("a")].reason == "interrupted"

    def test_without_a_quorum_the_run_fails_at_once_and_says_who_sent_what(self, tmp_path) -> None:
        world = PlaneWorld(tmp_path, self.plan(quorum=2))
        self.fault_and_answer(world)
        with pytest.raises(QuorumNotMetError, match=r"nobody else can answer.*a: interrupted"):
            world.run_loop()


def test_whoever_was_told_to_give_up_before_a_crash_is_not_at_fault(tmp_path) -> None:
    """The cohort was full, the others' tasks were closed, and then the power went."""
    plan = toy_plan(rounds=1, quorum=1, cohort=1, over_selection=3.0)
    world = PlaneWorld(tmp_path, plan, names="abcd")
    tasks = [f"run/1/train/{name}" for name in "abcd"]
    meanwhile(
        lambda: wait_for(lambda: world.is_open(*tasks)), lambda: world.answer("run/1/train/d")
    )
    parts = world.parts()

    def write(_outcome: object) -> None:
        raise PowerCut

    parts.checkpoints.write = write  # type: ignore[method-assign, assignment]
    with pytest.raises(PowerCut):
        world.run_loop(parts)
    again = world.parts()
    node_ids = {name: node for node, name in world.members.names().items()}
    configure = again.strategy.configure_train

    def in_order(*arguments):
        """Those who were told to give up are looked at first."""
        messages = list(configure(*arguments))
        return sorted(messages, key=lambda one: one.metadata.dst_node_id == node_ids["d"])

    again.strategy.configure_train = in_order  # type: ignore[method-assign]
    world.run_loop(again)
    (record,) = world.runs.rounds(RUN)
    assert {name: why.reason for name, why in record.refused.items()} == dict.fromkeys(
        "abc", "surplus"
    )
