"""Attack tests: losses that mix units are refused before anybody trains with them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from hansa.client.training.encoder import TextData, train_encoder
from hansa.client.training.loss import shopper_losses
from hansa.client.training.objective import check_losses
from hansa.client.training.samples import Sample, ShopData
from hansa.client.training.tower import train_tower
from hansa.core.errors import InvalidInputError
from hansa.core.models.encoder import Encoder
from hansa.core.models.tower import Tower
from hansa.core.models.trained import initial_arrays
from hansa.core.plan import RunPlan
from tests.fakes.entropy import SeededEntropy
from tests.fakes.tiny_model import texts, tiny_encoder, write_tokenizer

VECTORS = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
DATA = ShopData(shoppers=(np.arange(5),), embeddings=VECTORS, negatives=VECTORS[:9])


def _plan(trains: str) -> RunPlan:
    return RunPlan.model_validate(
        {
            "name": "test",
            "training": {"trains": trains, "rank": 2},
            "privacy": {"sampling_rate": 1.0, "expected_shoppers": 4, "noise_multiplier": 1.0},
            "federation": {"rounds": 1, "quorum": 1},
            "compression": None,
        }
    )


def _in_batch_softmax(
    users: Tensor, targets: Tensor, _present: Tensor, _negatives: Tensor, temperature: float
) -> Tensor:
    """Each unit's first target against those of all others in the batch."""
    scores = users @ targets[:, 0].T / temperature
    return nn.functional.cross_entropy(scores, torch.arange(len(users)), reduction="none")


def _detached_in_batch_softmax(
    users: Tensor, targets: Tensor, present: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """The others' vectors are constants here, and yet each unit's loss hangs on them."""
    return _in_batch_softmax(users, targets.detach(), present, negatives, temperature)


def _batch_mean(users: Tensor, *others: Tensor) -> Tensor:
    return shopper_losses(users - users.mean(dim=0), *others)


def _reduced(*arguments: Tensor) -> Tensor:
    return shopper_losses(*arguments).mean()


class Queue:
    """Negatives of earlier calls, as momentum contrast has them."""

    def __init__(self) -> None:
        self._seen = torch.zeros(0, 8)

    def __call__(self, users: Tensor, targets: Tensor, present: Tensor, *others: Tensor) -> Tensor:
        losses = shopper_losses(users, targets, present, *others) + self._seen.sum()
        self._seen = torch.cat([self._seen, targets[:, 0]])
        return losses


@pytest.mark.parametrize(
    "loss",
    [_in_batch_softmax, _detached_in_batch_softmax, _batch_mean, Queue()],
    ids=["in-batch softmax", "detached in-batch softmax", "batch mean", "queue"],
)
def test_a_loss_that_mixes_units_is_refused_before_a_tower_trains(loss) -> None:
    weights = Tower.initial(VECTORS, 2).arrays()
    with pytest.raises(InvalidInputError, match="negatives from the public catalogue"):
        train_tower(weights, DATA, _plan("tower"), SeededEntropy(), loss=loss)


def test_a_reduced_loss_is_refused() -> None:
    weights = Tower.initial(VECTORS, 2).arrays()
    with pytest.raises(InvalidInputError, match="one loss a unit"):
        train_tower(weights, DATA, _plan("tower"), SeededEntropy(), loss=_reduced)


@pytest.mark.parametrize("trains", ["lora", "full"])
def test_in_batch_negatives_are_refused_before_an_encoder_trains(
    trains: str, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(write_tokenizer(tmp_path) / "tokenizer.json"))
    encoder, titles = Encoder(tiny_encoder(), tokenizer, max_tokens=32), tuple(texts(12))
    vectors = encoder.embed_texts(titles)
    shop = ShopData(shoppers=(np.arange(5),), embeddings=vectors, negatives=vectors)
    plan = _plan(trains)
    weights = initial_arrays(encoder, plan.training)
    with pytest.raises(InvalidInputError, match="another one"):
        train_encoder(
            weights,
            TextData(shop=shop, texts=titles),
            plan,
            encoder,
            SeededEntropy(),
            loss=_in_batch_softmax,
        )
    assert not any(one.requires_grad for one in encoder.model.parameters())


class Normalised(nn.Module):
    """A model with batch normalisation: each unit's output hangs on the whole batch."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def losses(self, samples: Sequence[Sample]) -> Tensor:
        rows = [torch.from_numpy(VECTORS[one.history]).mean(dim=0) for one in samples]
        found: Tensor = self.norm(torch.stack(rows)).square()[:, 0]
        return found


def test_a_model_with_batch_normalisation_is_refused_also_when_it_comes_in_evaluation_mode() -> (
    None
):
    model = Normalised(nn.BatchNorm1d(8)).eval()
    with pytest.raises(InvalidInputError, match="layer normalisation instead of batch"):
        check_losses(model, model.losses, 30)
    assert not model.training


def test_a_model_with_layer_normalisation_passes() -> None:
    model = Normalised(nn.LayerNorm(8))
    check_losses(model, model.losses, 30)


@pytest.mark.parametrize("items", [1, 2, 7, 1000])
def test_the_check_needs_no_shopper_and_no_number_of_items(items: int) -> None:
    seen: list[Sample] = []

    def losses(samples: Sequence[Sample]) -> Tensor:
        seen.extend(samples)
        return torch.tensor([float(one.history[0]) for one in samples])

    check_losses(nn.Linear(1, 1), losses, items)
    assert all(len(one.history) and len(one.targets) for one in seen)
    assert max(max(*one.history, *one.targets) for one in seen) < items
