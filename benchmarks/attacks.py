"""What attackers do to an aggregate: the plain mean beside Flower's robust rules.

Claim: with 20 merchants of whom 4 or 6 (20 or 30 %) attack, the accuracy under a robust rule stays
within 2 % of what the same rule reaches without an attack, while the same sign flips, scaled
updates and noise ruin the plain mean. Krum needs 2 f + 3 valid updates and Bulyan 4 f + 3: where
attackers send what the intake refuses, too few may be left, and the run fails loudly (accuracy
null) rather than go on without its guarantee.

The rounds are the plane's own loop over an in-process Grid: intake check, quarantine, quorum and
strategy are the code that real merchants meet. The task is a softmax regression over synthetic
shoppers (20 features, 6 departments): convex, so that what is measured is the aggregation and not a
lucky start. No noise is added: it would hide small attacks and help no rule.

Command:
    python benchmarks/attacks.py [--rounds 8] [--seed 0]

Expected: the table in docs/robust-aggregation.md, the same on every machine to about 0.01.
"""

import argparse
import functools
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hansa.core.errors import QuorumNotMetError
from hansa.core.ids import RunId
from hansa.core.plan import parse_plan
from hansa.core.quiet import configure_logging
from hansa.core.storage import BlobStore
from hansa.server.rounds.checkpoints import Checkpoints
from hansa.server.rounds.loop import RoundLoop, RunParts
from hansa.server.rounds.strategies import make_strategy
from hansa.server.simulation import InProcessGrid
from hansa.server.simulation.engine import RoundList

MERCHANTS = 20
FEATURES, DEPARTMENTS = 20, 6
_EXAMPLES, _TEST_EXAMPLES = 500, 3000
_STEPS, _RATE = 10, 0.5
_SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None  # checkpoints wait for no disk
_BOUND = 20.0
"""The plan's ``max_update_norm``: about ten times an honest update of the first round."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Shoppers:
    """Features and the department of each shopper."""

    features: Floats
    departments: Integers


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What an attacker sees when it makes its update."""

    model: Floats
    honest: Floats
    """What it would send if it were honest."""
    shoppers: Shoppers
    first: Floats
    """What it sent in the first round, honestly."""
    rng: Rng


Attack = Callable[[Turn], Floats]


def _to_norm(turn: Turn, direction: Floats, norm: float) -> Floats:
    length = float(np.linalg.norm(direction))
    return turn.model + direction * (norm / length if length else 0.0)


def _label_flip(turn: Turn) -> Floats:
    wrong = DEPARTMENTS - 1 - turn.shoppers.departments
    poisoned = Shoppers(features=turn.shoppers.features, departments=wrong)
    return turn.model + 5.0 * (train(turn.model, poisoned) - turn.model)


ATTACKS: Mapping[str, Attack] = {
    "none": lambda turn: turn.honest,
    "sign flip": lambda turn: turn.model - 5.0 * (turn.honest - turn.model),
    "scaling": lambda turn: _to_norm(turn, turn.model - turn.honest, 0.95 * _BOUND),
    "Gaussian": lambda turn: _to_norm(turn, turn.rng.normal(size=turn.model.shape), 0.95 * _BOUND),
    "label flip": _label_flip,
    "replay": lambda turn: turn.first,
    "free rider": lambda turn: turn.model,
    "NaN": lambda turn: np.full_like(turn.model, np.nan),
    "oversized": lambda turn: turn.model - 1000.0 * (turn.honest - turn.model),
}
"""``scaling`` and ``Gaussian`` go as far as the intake lets them; ``oversized`` goes further."""


def rules(attackers: int) -> dict[str, dict[str, float]]:
    """Options of every rule against so many attackers, as a plan sets them."""
    trimmed = (attackers + 0.5) / MERCHANTS
    some: dict[str, dict[str, float]] = {
        "FedAvg": {},
        "FedMedian": {},
        "FedTrimmedAvg": {"beta": trimmed},
        "Krum": {"num_malicious_nodes": attackers},
        "MultiKrum": {
            "num_malicious_nodes": attackers,
            "num_nodes_to_select": MERCHANTS - attackers - 2,
        },
    }
    if 4 * attackers + 3 <= MERCHANTS:
        some["Bulyan"] = {"num_malicious_nodes": attackers}
    return some


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One rule under one attack."""

    accuracy: float | None
    """None where no round was aggregated."""
    refused: dict[str, int]
    """Replies that the intake or a quarantine kept out, by reason."""


def run(rule: str, attack: str, attackers: int, *, rounds: int, seed: int) -> Outcome:
    """A whole run; the first ``attackers`` merchants attack in every round but the first."""
    krum = 2 * attackers + 3
    needed = {"Krum": krum, "MultiKrum": krum, "Bulyan": 4 * attackers + 3}
    quorum = max(MERCHANTS - attackers, needed.get(rule, 1))
    plan = parse_plan(
        {
            "name": "attacks",
            "privacy": {"sampling_rate": 0.5, "expected_shoppers": 10, "noise_multiplier": 1.0},
            "compression": None,
            "federation": {
                "rounds": rounds,
                "quorum": quorum,
                "deadline_s": 0.001,  # nobody comes later
                "strategy": rule,
                "options": rules(attackers)[rule],
                "max_update_norm": _BOUND,
            },
        },
        "the plan",
    )
    grid = InProcessGrid(make_app(attack, attackers, seed), MERCHANTS)
    book, run_id = RoundList(), RunId("attacks")
    with tempfile.TemporaryDirectory(dir=_SCRATCH) as folder:
        parts = RunParts(
            run_id=run_id,
            plan=plan,
            strategy=make_strategy(plan.federation),
            grid=grid,
            checkpoints=Checkpoints(run_id, book, BlobStore(Path(folder))),
            stopped=lambda: False,
            note=lambda _kind, _sentence: None,
        )
        try:
            model = RoundLoop(parts).run({"weights": np.zeros((FEATURES, DEPARTMENTS))})
        except QuorumNotMetError:
            return Outcome(accuracy=None, refused={})
    refused: dict[str, int] = {}
    for record in book.rounds(run_id):
        for refusal in record.refused.values():
            refused[refusal.reason] = refused.get(refusal.reason, 0) + 1
    return Outcome(accuracy=accuracy(np.asarray(model["weights"]), seed), refused=refused)


def make_app(attack: str, attackers: int, seed: int) -> ClientApp:
    """Merchants of whom the first few attack from the second round on."""
    app = ClientApp()

    @app.train()
    def reply(message: Message, context: Context) -> Message:
        place = int(str(context.node_config["partition-id"]))
        number = int(str(message.content.config_records["config"]["server-round"]))
        model = message.content.array_records["arrays"]["weights"].numpy()
        shoppers = make_shoppers(_EXAMPLES, seed, place)
        sent = honest = train(model, shoppers)
        if "first" not in context.state:
            context.state["first"] = ArrayRecord({"weights": Array(honest)})
        if place < attackers and number > 1:
            first = context.state.array_records["first"]["weights"].numpy()
            rng = np.random.default_rng([seed, place, number])
            turn = Turn(model=model, honest=honest, shoppers=shoppers, first=first, rng=rng)
            sent = ATTACKS[attack](turn)
        arrays = ArrayRecord({"weights": Array(np.asarray(sent, np.float64))})
        records = {"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(records), reply_to=message)

    return app


@functools.lru_cache(maxsize=2 * MERCHANTS)
def make_shoppers(count: int, seed: int, place: int) -> Shoppers:
    """Shoppers of one merchant; merchants like departments unequally, as real ones do."""
    truth = np.random.default_rng(seed).normal(size=(FEATURES, DEPARTMENTS))
    rng = np.random.default_rng([seed, 1, place])
    lean = rng.normal(scale=0.3, size=DEPARTMENTS)
    features = rng.normal(size=(count, FEATURES))
    scores = features @ truth + lean + rng.gumbel(size=(count, DEPARTMENTS))
    return Shoppers(features=features, departments=scores.argmax(axis=1))


def train(model: Floats, shoppers: Shoppers) -> Floats:
    """Some full-batch steps of softmax regression."""
    weights = model.copy()
    wanted = np.eye(DEPARTMENTS)[shoppers.departments]
    for _ in range(_STEPS):
        scores = shoppers.features @ weights
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        weights -= _RATE * shoppers.features.T @ (odds - wanted) / len(wanted)
    return np.asarray(weights)


def accuracy(model: Floats, seed: int) -> float:
    """Share of new shoppers whose department the model names first."""
    shoppers = make_shoppers(_TEST_EXAMPLES, seed, MERCHANTS)
    return float(np.mean((shoppers.features @ model).argmax(axis=1) == shoppers.departments))


def main() -> None:
    """Prints every rule under every attack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    configure_logging(verbose=False)
    logging.getLogger("hansa").setLevel(logging.WARNING)
    table: list[dict[str, object]] = []
    for attackers in (4, 6):
        for rule in rules(attackers):
            found = {
                attack: run(rule, attack, attackers, rounds=options.rounds, seed=options.seed)
                for attack in ATTACKS
            }
            table += [
                _row(rule, attack, attackers, one, found["none"]) for attack, one in found.items()
            ]
    print(json.dumps({"merchants": MERCHANTS, "rounds": options.rounds, "table": table}, indent=2))


def _row(
    rule: str, attack: str, attackers: int, found: Outcome, clean: Outcome
) -> dict[str, object]:
    kept = found.accuracy / clean.accuracy if found.accuracy and clean.accuracy else None
    return {
        "attackers": attackers,
        "rule": rule,
        "attack": attack,
        "accuracy": None if found.accuracy is None else round(found.accuracy, 4),
        "of_no_attack": None if kept is None else round(kept, 4),
        "refused": found.refused,
    }


if __name__ == "__main__":
    main()
