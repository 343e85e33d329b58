"""Sampled softmax of a shopper's vector against public negatives (also: InfoNCE, NT-Xent).

In plain terms: what the shopper bought must score higher than the rest of the public catalogue.
The negatives are public and shared, never other records of the batch, so each shopper's loss
depends on that shopper alone and clipping bounds its influence. ``1 / temperature`` is what
sentence-transformers calls the scale.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hansa.client.training.samples import Integers


def shopper_losses(
    users: Tensor, targets: Tensor, present: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """Each shopper's mean loss over its targets, ``(shoppers,)``.

    Args:
        users: user vectors, ``(shoppers, dim)``.
        targets: item vectors of what the shoppers bought, ``(shoppers, k, dim)``, padded.
        present: which of them are no padding, ``(shoppers, k)``.
        negatives: item vectors of the public catalogue, ``(m, dim)``.
        temperature: similarities are divided by this.
    """
    against = torch.logsumexp(users @ negatives.T / temperature, dim=1, keepdim=True)
    own = torch.einsum("sd,skd->sk", users, targets) / temperature
    losses = torch.where(present, torch.logaddexp(own, against) - own, 0.0)
    return losses.sum(dim=1) / present.sum(dim=1).clamp(min=1)


def padded_targets(embeddings: Tensor, targets: Sequence[Integers]) -> tuple[Tensor, Tensor]:
    """Vectors ``(shoppers, k, dim)`` and mask ``(shoppers, k)`` of each shopper's targets."""
    longest = max((len(one) for one in targets), default=0)
    places = torch.zeros((len(targets), longest), dtype=torch.int64)
    present = torch.zeros((len(targets), longest), dtype=torch.bool)
    for row, one in enumerate(targets):
        places[row, : len(one)] = torch.from_numpy(one)
        present[row, : len(one)] = True
    return embeddings[places.to(embeddings.device)], present.to(embeddings.device)
