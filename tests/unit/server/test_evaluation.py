"""Pooled counts: who is asked and waited for, and which counts no honest merchant can send."""

import math
import threading

import pytest

from hansa.core.ids import MerchantId
from hansa.server.rounds.evaluation import evaluate, pool
from hansa.server.rounds.loop import RunInterrupted
from tests.fakes.plane_world import RUN, PlaneWorld, meanwhile, wait_for
from tests.fakes.toy_federation import FIRST_MODEL, toy_plan

PLAN = toy_plan(releases=True, rounds=1, quorum=2)
"""Noise of standard deviation sqrt(2) * 50 = 71 in each count; made for 10 / 0.1 = 100 shoppers."""
A, B = "run/1/evaluate/a", "run/1/evaluate/b"
HONEST = (30.0, 100.0)


def go_on() -> None:
    """Nobody stops the run."""


def pooled(**counts: tuple[float, float] | str):
    return pool({MerchantId(name): pair for name, pair in counts.items()}, PLAN)


class TestWhoIsAsked:
    def test_whoever_was_asked_before_a_restart_is_waited_for_though_it_is_not_back_yet(
        self, tmp_path
    ) -> None:
        world = PlaneWorld(tmp_path, PLAN)
        stop = threading.Event()
        meanwhile(lambda: wait_for(lambda: world.is_open(A, B)), stop.set)
        grid = world.grid(stop.is_set)

        def stopped() -> None:
            if stop.is_set():
                raise RunInterrupted

        with pytest.raises(RunInterrupted):
            evaluate(grid, PLAN, FIRST_MODEL, stopped)
        world.count(A, 5.0, 10.0)
        world.tasks.postpone(RUN, "evaluate", 0.0)
        world.clock.ahead_s = 3600.0
        assert world.members.online() == {}
        meanwhile(
            lambda: wait_for(lambda: world.tasks.states([B])[0].deadline > 0.0),
            lambda: world.count(B, 10.0, 20.0),
        )
        quality = evaluate(world.grid(), PLAN, FIRST_MODEL, go_on)
        assert (quality.merchants, quality.recall_at_10) == (2, 0.5)

    def test_it_waits_until_the_quorum_is_online(self, tmp_path) -> None:
        world = PlaneWorld(tmp_path, PLAN, names="a")
        grid = world.grid()
        eligible = grid.get_node_ids

        def joins_after_the_first_look() -> list[int]:
            found = eligible()
            if "b" not in world.members.names().values():
                world.join("b")
            return found

        grid.get_node_ids = joins_after_the_first_look  # type: ignore[method-assign]
        meanwhile(
            lambda: wait_for(lambda: world.is_open(A, B)),
            lambda: [world.count(task, *HONEST) for task in (A, B)],
        )
        assert evaluate(grid, PLAN, FIRST_MODEL, go_on).merchants == 2

    def test_after_the_deadline_it_goes_on_with_whom_there_is(self, tmp_path) -> None:
        plan = toy_plan(releases=True, rounds=1, quorum=2, deadline_s=1.0)
        world = PlaneWorld(tmp_path, plan, names="a")
        meanwhile(lambda: wait_for(lambda: world.is_open(A)), lambda: world.count(A, *HONEST))
        assert evaluate(world.grid(), plan, FIRST_MODEL, go_on).merchants == 1

    def test_whoever_gives_no_counts_is_named_with_the_reason(self, tmp_path) -> None:
        world = PlaneWorld(tmp_path, PLAN)
        meanwhile(
            lambda: wait_for(lambda: world.is_open(A, B)),
            lambda: world.count(A, *HONEST),
            lambda: world.refuse(B, "budget"),
        )
        quality = evaluate(world.grid(), PLAN, FIRST_MODEL, go_on)
        assert (quality.merchants, quality.refused) == (1, {"b": "budget: it says"})


class TestCountsThatNoHonestMerchantCanSend:
    @pytest.mark.parametrize(
        "forged",
        [
            (-1e9, 1e9),
            (1e12, 1e9),
            (1e9, 1e9),
            (1e308, 1e308),
            (-1000.0, 100.0),
            (1000.0, 100.0),
            (0.0, -1000.0),
            (math.nan, 100.0),
            (30.0, math.nan),
            (math.inf, math.inf),
        ],
    )
    def test_they_are_refused_by_name_and_reason_and_change_nothing(self, forged) -> None:
        quality = pooled(mill=HONEST, forger=forged)
        assert (quality.merchants, quality.recall_at_10) == (1, 0.3)
        assert "forger" not in quality.shoppers_noised_by_merchant
        assert quality.refused["forger"].startswith("rejected: ")

    @pytest.mark.parametrize(
        "noised", [(-300.0, 200.0), (400.0, 100.0), (-100.0, -200.0), (5000.0, 9000.0)]
    )
    def test_what_the_plans_noise_can_make_of_honest_counts_is_taken(self, noised) -> None:
        """Four or five standard deviations away, and a merchant 90 times the expected."""
        assert pooled(mill=noised).refused == {}

    def test_without_a_positive_number_of_shoppers_there_is_no_recall(self) -> None:
        assert pooled(mill=(30.0, -50.0)).recall_at_10 is None
        assert pooled().recall_at_10 is None

    def test_the_noise_of_the_sums_is_that_of_the_counts_in_them(self) -> None:
        quality = pooled(mill=HONEST, port=HONEST, forger=(1e9, 1e9))
        assert quality.noise_std == pytest.approx(50.0 * math.sqrt(2 * 2))
