import numpy as np
import pytest

from hansa.client.empirical.attacked import seeded
from hansa.client.empirical.experiment import GRADIENTS, guess_counts, run_experiment
from hansa.client.empirical.gradients import (
    GHOST,
    GradientLearner,
    orthogonal_directions,
    shoppers_of,
)
from hansa.client.empirical.setting import changed, replaced, settings_of
from hansa.client.empirical.shoppers import CanaryShoppers, decoded
from hansa.client.empirical.world import learner_of
from hansa.client.training import encoder
from hansa.client.training.clipping import RecordGradients
from hansa.client.training.ghost import GhostGradients
from hansa.client.training.samples import Sample
from hansa.core.errors import InvalidInputError
from hansa.core.models.shapes import NEGATIVES
from tests.fakes.attacked_plans import attacked_plan, banded_plan, distributed_plan, record_plan


def test_directions_are_orthonormal_and_every_number_of_them_is_used() -> None:
    rows = orthogonal_directions(60, np.random.default_rng(0))
    np.testing.assert_allclose(rows @ rows.T, np.eye(60), atol=1e-6)
    np.testing.assert_allclose(np.abs(rows), 1.0 / 8.0)


def test_a_canary_that_is_out_is_absent_or_for_records_lacks_its_second_purchase() -> None:
    assert [one.tolist() for one in shoppers_of([False, True], "shopper")] == [[2, 3]]
    assert [one.tolist() for one in shoppers_of([False, True], "record")] == [[0], [2, 3]]


@pytest.mark.parametrize("trains", ["tower", "lora", "bitfit", "top_layers", "full"])
def test_canaries_are_clipped_the_way_that_the_plans_own_model_is(trains: str) -> None:
    """The attack's list of what is clipped by ghost clipping is the training's own."""
    assert GHOST == encoder._GHOST
    learner = GradientLearner(np.eye(2, dtype=np.float32), attacked_plan(trains))
    with learner.gradients() as gradients:
        assert isinstance(gradients, GhostGradients if trains in GHOST else RecordGradients)


@pytest.mark.parametrize("trains", ["tower", "lora", "full"])
def test_both_ways_to_split_a_canarys_purchases_give_one_loud_gradient(trains: str) -> None:
    plan = settings_of(attacked_plan(trains))[0]
    canaries = CanaryShoppers.of(plan, 5, 0)
    public = np.asarray(canaries.task.public[NEGATIVES], np.float32)
    with learner_of(canaries.task, canaries.site) as learner, learner.gradients() as gradients:
        losses = learner.losses(public)
        for first in range(0, 10, 2):
            items = np.array([first, first + 1])
            ways = [
                gradients(lambda one=one: losses([one]), 4.0).numpy()
                for one in (
                    Sample(history=items[:1], targets=items[1:]),
                    Sample(history=items[1:], targets=items[:1]),
                )
            ]
            assert np.linalg.norm(ways[0]) == pytest.approx(4.0, rel=1e-4)
            assert ways[0] @ ways[1] > 0.9 * 16.0


def test_the_attack_tells_canaries_with_much_in_common_apart() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((40, 60)) + 5.0).astype(np.float32)
    was_in = rng.random(40) < 0.5
    release = -3.0 * rows[was_in].sum(axis=0).astype(np.float64)
    assert decoded(rows, release, 0.1)[was_in].min() > decoded(rows, release, 0.1)[~was_in].max()


def test_the_settings_replace_what_they_say_and_keep_all_else() -> None:
    plan = attacked_plan(training={"optimizer": "adamw", "learning_rate": 0.5})
    one, several = settings_of(plan)
    assert (one.form().noise_multiplier, one.form().steps) == (4.0, 1)
    assert (several.form().noise_multiplier, several.form().steps) == (8.0, 4)
    back = {
        "privacy": {"noise_multiplier": 1.2, "sampling_rate": 0.5},
        "training": {"local_steps": 1, "devices": 1},
        "federation": {"rounds": 3},
    }
    assert changed(several.plan, **back) == plan
    assert set(replaced(plan)) == {
        name.replace("_", "-") for part in back.values() for name in part
    }


def test_banded_and_distributed_noise_keep_their_mechanism_in_the_settings() -> None:
    assert [one.form().bands for one in settings_of(banded_plan())] == [4, 4]
    assert [one.form().steps for one in settings_of(banded_plan())] == [4, 16]
    assert [one.form().honest for one in settings_of(distributed_plan())] == [2, 2]
    assert [one.form().rounds for one in settings_of(distributed_plan())] == [1, 4]
    assert "records-per-shopper" in replaced(record_plan())


def test_a_plan_that_trains_nothing_is_refused() -> None:
    body = attacked_plan().model_dump(mode="json")
    body["federation"]["rounds"] = 0
    body["begins_with"] = "last-release"
    body["privacy"]["evaluation_noise_multiplier"] = 5.0
    plan = type(attacked_plan()).model_validate(body)
    with pytest.raises(InvalidInputError, match="nothing to attack"):
        settings_of(plan)


def test_numbers_of_guesses_are_even_and_within_the_canaries() -> None:
    assert guess_counts(1500) == (50, 100, 200, 400, 600, 800, 1000, 1500)


def test_the_same_seed_gives_the_same_result_and_another_one_another() -> None:
    setting = settings_of(attacked_plan())[0]
    first, again, other = (
        run_experiment(GRADIENTS, setting, seed=seed, canaries=500) for seed in (5, 5, 6)
    )
    assert first == again
    assert first.correct != other.correct or first.guesses != other.guesses
    assert seeded(5, "a").random_bytes(8) != seeded(5, "b").random_bytes(8)
