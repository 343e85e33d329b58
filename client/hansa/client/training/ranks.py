"""The processes, one for each device, that take a merchant's steps together.

All ranks hold the same data and draw the same sample; each works out its share of the shoppers, the
clipped sums are added up, the first rank alone draws the noise, and everybody moves by the result.
So many ranks release what one releases, within rounding, and it is worth the same event.

Nothing of this goes beyond the machine: the ranks meet in a file, and talk over the loopback.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hansa.core.canonical import sha256_hex
from hansa.core.errors import ConflictError
from hansa.core.privacy.mechanism import AesNormal, Entropy
from hansa.core.privacy.noise import NoiseStream
from hansa.core.privacy.plan import PrivacyPlan

_T = TypeVar("_T")

_BLOCK_BYTES: Final = 1 << 16
"""Random bytes that are handed round at once: many draws are of a few bytes."""


class Ranks(Protocol):
    """How one process takes part in a step."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        ...

    def noise(self, source: Entropy, privacy: PrivacyPlan) -> NoiseStream | None:
        """The round's stream of noise; only the first rank has one. Call it before ``entropy``."""
        ...

    def entropy(self, source: Entropy) -> Entropy:
        """What all ranks draw alike from: the first rank's source."""
        ...

    def share(self, sample: Sequence[_T]) -> Sequence[_T]:
        """This rank's part of a sample that all have drawn."""
        ...

    def total(self, sums: Tensor) -> Tensor:
        """The sum over all ranks."""
        ...

    def from_first(self, values: Tensor) -> Tensor:
        """The first rank's values."""
        ...


class Alone:
    """One process on the CPU: everything is its own."""

    device = torch.device("cpu")

    def noise(self, source: Entropy, privacy: PrivacyPlan) -> NoiseStream:
        """The round's stream of noise."""
        return privacy.noise_stream(AesNormal.fresh(source))

    def entropy(self, source: Entropy) -> Entropy:
        """The source itself."""
        return source

    def share(self, sample: Sequence[_T]) -> Sequence[_T]:
        """All of it."""
        return sample

    def total(self, sums: Tensor) -> Tensor:
        """The sums as they are."""
        return sums

    def from_first(self, values: Tensor) -> Tensor:
        """The values as they are."""
        return values


ALONE: Final[Ranks] = Alone()


class Group:
    """This process among the others of ``torch.distributed``'s default group."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._rank, self._size = dist.get_rank(), dist.get_world_size()

    @property
    def is_first(self) -> bool:
        """Whether this rank draws and writes for all."""
        return self._rank == 0

    def noise(self, source: Entropy, privacy: PrivacyPlan) -> NoiseStream | None:
        """The round's stream of noise at the first rank; the others never see its key."""
        return privacy.noise_stream(AesNormal.fresh(source)) if self.is_first else None

    def entropy(self, source: Entropy) -> Entropy:
        """The first rank's bytes, at every rank in the same order."""
        return _Shared(self, source)

    def share(self, sample: Sequence[_T]) -> Sequence[_T]:
        """Every n-th of the sample, n being the number of ranks."""
        return sample[self._rank :: self._size]

    def total(self, sums: Tensor) -> Tensor:
        """The sum over all ranks."""
        total = sums.clone()
        dist.all_reduce(total)
        return total

    def from_first(self, values: Tensor) -> Tensor:
        """The first rank's values, whose shape and dtype all know."""
        received = values.to(self.device).clone()
        dist.broadcast(received, src=0)
        return received

    def agree(self, what: bytes) -> None:
        """Makes sure that all ranks hold the same before they draw from it.

        Raises:
            ConflictError: this rank holds something else than the first.
        """
        own = torch.tensor(list(bytes.fromhex(sha256_hex(what))), dtype=torch.uint8)
        if not torch.equal(self.from_first(own).cpu(), own):
            raise ConflictError("the ranks read different data; train again when no ingest runs")


class _Shared:
    """An entropy source whose bytes come from the first rank, in blocks."""

    def __init__(self, group: Group, source: Entropy) -> None:
        self._group = group
        self._source = source
        self._ready = b""

    def random_bytes(self, n: int, /) -> bytes:
        """``n`` bytes, the same at every rank that asks for as many."""
        if n > len(self._ready):
            self._ready += self._block(max(n - len(self._ready), _BLOCK_BYTES))
        taken, self._ready = self._ready[:n], self._ready[n:]
        return taken

    def _block(self, size: int) -> bytes:
        drawn = self._source.random_bytes(size) if self._group.is_first else bytes(size)
        block = torch.frombuffer(bytearray(drawn), dtype=torch.uint8)
        return bytes(self._group.from_first(block).cpu().numpy())


@contextmanager
def joined(
    store: Path, *, rank: int, size: int, device: torch.device, timeout_s: float
) -> Iterator[Group]:
    """This process as a member of the group that meets in the file ``store``.

    Args:
        store: a file that does not exist yet, in a folder that only this user may read.
        rank: this process's number, from 0.
        size: how many there are.
        device: a GPU of its own (NCCL), or the CPU (Gloo).
        timeout_s: a rank that waits longer for the others fails.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=dt.timedelta(seconds=timeout_s),
    )
    try:
        yield Group(device)
    finally:
        dist.destroy_process_group()
