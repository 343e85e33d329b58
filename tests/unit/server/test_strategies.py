"""Strategies by name, and what a plan may say of them."""

import inspect
from collections.abc import Mapping

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, Strategy

from hansa.core.content import Content
from hansa.core.errors import InvalidInputError, UnauthorisedError
from hansa.core.plan import SUMMABLE_STRATEGIES, FederationSpec
from hansa.server.rounds.flower import adopt_identity, make_reply, to_records
from hansa.server.rounds.strategies import KNOWN, make_strategy
from hansa.server.rounds.strategy_state import capture, restore

OPTIONS: dict[str, dict[str, bool | int | float | str]] = {
    "FedAvg": {},
    "FedAvgM": {"server_learning_rate": 0.5, "server_momentum": 0.9},
    "FedAdam": {"eta": 0.1, "beta_1": 0.9},
    "FedYogi": {"eta": 0.1, "tau": 0.01},
    "FedAdagrad": {"eta": 0.1},
    "FedProx": {"proximal_mu": 0.5},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.2},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "Bulyan": {"num_malicious_nodes": 1},
}
NODES = 7
OWN = "tests.unit.server.own_strategies"


def spec(strategy: str, *, quorum: int = NODES, **options: object) -> FederationSpec:
    return FederationSpec.model_validate(
        {"strategy": strategy, "options": options, "rounds": 1, "quorum": quorum}
    )


class NodesGrid:
    def get_node_ids(self) -> list[int]:
        return list(range(1, NODES + 1))


def reply(node: int, arrays: Mapping[str, np.ndarray]) -> Message:
    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=node,
        dst_node_id=1,
        reply_to_message_id="task",
        group_id="1",
        created_at=0.0,
        ttl=10.0,
        message_type="train",
    )
    content = Content(arrays={"arrays": arrays}, metrics={"metrics": {"num-examples": 1}})
    return make_reply(to_records(content), metadata)


def one_round(strategy: Strategy, number: int, model: ArrayRecord) -> ArrayRecord:
    """Each merchant answers with a fixed, uneven move away from what it was sent."""
    messages = list(strategy.configure_train(number, model, ConfigRecord(), NodesGrid()))
    assert len(messages) == NODES
    replies = []
    for node in range(1, NODES + 1):
        rng = np.random.default_rng([number, node])
        arrays = {
            name: np.asarray(array.numpy() + rng.normal(size=array.shape), array.numpy().dtype)
            for name, array in model.items()
        }
        replies.append(reply(node, arrays))
    aggregate, _ = strategy.aggregate_train(number, replies)
    assert aggregate is not None
    return aggregate


def first_model() -> ArrayRecord:
    weights = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    return ArrayRecord({"w": Array(weights), "b": Array(np.array(0.5, np.float32))})


def run(name: str, rounds: int, *, broken_off: bool) -> ArrayRecord:
    adopt_identity()
    strategy, model = make_strategy(spec(name, **OPTIONS[name])), first_model()
    for number in range(1, rounds + 1):
        model = one_round(strategy, number, model)
        if broken_off:
            kept = capture(strategy)
            data = None if kept is None else kept.to_bytes()
            strategy = make_strategy(spec(name, **OPTIONS[name]))
            restore(strategy, None if data is None else Content.from_bytes(data))
    return model


def test_the_examples_cover_every_strategy_that_is_offered() -> None:
    assert list(OPTIONS) == list(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_a_run_broken_off_after_each_round_ends_exactly_as_one_that_was_not(name: str) -> None:
    straight, broken = run(name, 4, broken_off=False), run(name, 4, broken_off=True)
    for key, array in straight.items():
        assert np.array_equal(broken[key].numpy(), array.numpy()), (name, key)


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdam", "FedYogi", "FedAdagrad"])
def test_forgetting_the_memory_would_change_the_model(name: str) -> None:
    """Else the test above would prove nothing."""
    adopt_identity()
    model = first_model()
    for number in range(1, 5):
        model = one_round(make_strategy(spec(name, **OPTIONS[name])), number, model)
    assert not np.array_equal(model["w"].numpy(), run(name, 4, broken_off=False)["w"].numpy())


@pytest.mark.parametrize("name", KNOWN)
def test_each_option_is_an_argument_of_flowers_strategy(name: str) -> None:
    parameters = inspect.signature(getattr(flower, name)).parameters
    assert KNOWN[name].options.keys() <= parameters.keys()


def test_options_reach_the_strategy() -> None:
    assert vars(make_strategy(spec("FedProx", proximal_mu=0.5)))["proximal_mu"] == 0.5
    assert vars(make_strategy(spec("FedAdam", eta=1)))["eta"] == 1.0


@pytest.mark.parametrize(
    ("strategy", "options", "sentence"),
    [
        ("FedMagic", {}, "there is no strategy 'FedMagic'"),
        ("FedAvg", {"eta": 0.1}, "FedAvg has no such option; it takes no options"),
        ("FedAdam", {"beta": 0.1}, "it takes eta, eta_l, tau, beta_1, beta_2"),
        ("FedAdam", {"eta": "much"}, "'much' is not a number"),
        ("FedAdam", {"eta": True}, "True is not a number"),
        ("FedAdam", {"eta": 0.0}, "0.0 is not above 0"),
        ("FedAdam", {"eta": float("nan")}, "nan is not above 0"),
        ("FedAdam", {"fraction_train": 0.5}, "has no such option"),
        ("Krum", {"num_malicious_nodes": 1.0}, "1.0 is not a whole number"),
        ("Krum", {"num_malicious_nodes": 3}, "needs at least 9 updates, the quorum is 7"),
        ("Bulyan", {"num_malicious_nodes": 2}, "needs at least 11 updates"),
        ("MultiKrum", {"num_nodes_to_select": 8}, "needs at least 8 updates"),
        ("FedTrimmedAvg", {"beta": 0.5}, "0.5 is not from 0 to below 0.5"),
        ("QFedAvg", {"client_learning_rate": 0.1}, "no merchant lets its loss out"),
    ],
)
def test_what_a_strategy_cannot_be_made_of_is_refused_in_a_sentence(
    strategy: str, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=r"^federation\.\S+: ") as caught:
        make_strategy(spec(strategy, **options))
    assert sentence in str(caught.value)


def test_only_strategies_that_are_content_with_a_mean_go_with_secure_aggregation() -> None:
    assert KNOWN.keys() >= SUMMABLE_STRATEGIES


class TestAStrategyOfOnesOwn:
    def test_it_runs_when_the_operator_allows_it(self) -> None:
        ref = f"{OWN}:Halved"
        made = make_strategy(spec(ref, factor=0.25), allowed=[ref])
        assert vars(made)["factor"] == 0.25
        assert isinstance(made, FedAvg)

    def test_it_may_be_made_by_a_function_or_be_an_instance(self) -> None:
        refs = [f"{OWN}:make", f"{OWN}:instance"]
        made = [make_strategy(spec(ref), allowed=refs) for ref in refs]
        assert [type(one).__name__ for one in made] == ["Halved", "Halved"]

    def test_each_run_gets_an_instance_of_its_own(self) -> None:
        ref = f"{OWN}:instance"
        first, second = (make_strategy(spec(ref), allowed=[ref]) for _ in range(2))
        assert first is not second

    def test_the_list_must_name_the_very_object(self) -> None:
        with pytest.raises(UnauthorisedError, match="is not on the list of allowed apps"):
            make_strategy(spec(f"{OWN}:Halved"), allowed=[f"{OWN}:make"])

    @pytest.mark.parametrize(
        ("name", "options", "sentence"),
        [
            ("tests.unit.server.no_such:Halved", {}, "install its package"),
            ("tests.unit.server.broken_module:x", {}, "ended with ZeroDivisionError"),
            (f"{OWN}:missing", {}, "has no 'missing'"),
            (f"{OWN}:NUMBER", {}, "is int, no Flower Strategy"),
            (f"{OWN}:Text", {}, "no Flower Strategy"),
            (f"{OWN}:Halved", {"speed": 1}, "cannot be made of these options"),
            (f"{OWN}:instance", {"factor": 1.0}, "is made already and takes no options"),
            (f"{OWN}:Patient", {}, "waits for 9 merchants (min_available_nodes)"),
        ],
    )
    def test_what_is_no_strategy_is_refused_in_a_sentence(
        self, name: str, options: dict[str, object], sentence: str
    ) -> None:
        with pytest.raises(InvalidInputError) as caught:
            make_strategy(spec(name, **options), allowed=[name])
        assert sentence in str(caught.value)


class TestMemory:
    def test_it_comes_back_whatever_it_is_made_of(self) -> None:
        from tests.unit.server.own_strategies import Hoarder

        full, fresh = Hoarder(full=True), Hoarder()
        kept = capture(full)
        assert kept is not None
        restore(fresh, Content.from_bytes(kept.to_bytes()))
        for name, value in vars(full).items():
            found = vars(fresh)[name]
            assert type(found) is type(value), name
            np.testing.assert_equal(found, value)

    def test_a_wrapper_and_what_keeps_itself_are_kept_from_within(self) -> None:
        from tests.unit.server.own_strategies import Wrapper

        full, fresh = Wrapper(), Wrapper()
        full.inner.seen, full.book.spent = 7, 2.5
        kept = capture(full)
        assert kept is not None
        restore(fresh, Content.from_bytes(kept.to_bytes()))
        assert (fresh.inner.seen, fresh.book.spent) == (7, 2.5)

    def test_what_cannot_be_kept_is_named_with_the_remedy(self) -> None:
        strategy = make_strategy(spec("FedAvg"))
        vars(strategy)["book"] = {"rng": np.random.default_rng(1)}
        with pytest.raises(InvalidInputError, match=r"'book\.rng' is a Generator; .*state_dict"):
            capture(strategy)

    def test_another_strategys_memory_is_refused(self) -> None:
        kept = capture(make_strategy(spec("FedAvg")))
        with pytest.raises(InvalidInputError, match="holds the memory of"):
            restore(make_strategy(spec("FedAdam")), kept)
