"""A run's checkpoints: from the last one a killed server goes on."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hansa.core.content import Content, stored_arrays
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.storage import BlobStore
from hansa.core.tensors import StoredArrays
from hansa.core.update import Arrays
from hansa.server.rounds.intake import ARRAYS
from hansa.server.rounds.records import KeptArrays
from hansa.server.state.runs import Refusal, RoundRecord
from hansa.server.state.tables import TaskRow

_log = logging.getLogger(__name__)

_MAX_SENTENCE = 500
_MAX_REASON = 32


@dataclass(frozen=True, kw_only=True)
class RoundOutcome:
    """What a round came to, before it is written down."""

    number: int
    started: float
    """Of ``time.monotonic``."""
    rows: Mapping[MerchantId, TaskRow]
    """The cohort's tasks."""
    accepted: Sequence[MerchantId]
    refused: Mapping[MerchantId, Refusal]
    aggregate: Arrays
    strategy: Content | None = None


class RoundBook(Protocol):
    """Where rounds are written down: ``Runs`` in a database, a list in a simulation."""

    def rounds(self, run_id: str) -> list[RoundRecord]:
        """The run's aggregated rounds in order."""
        ...

    def checkpoint(self, run_id: str, record: RoundRecord) -> None:
        """Writes an aggregated round down."""
        ...


class Checkpoints:
    """The aggregates of one run, each written once."""

    def __init__(self, run_id: RunId, runs: RoundBook, blobs: BlobStore) -> None:
        self._run_id = run_id
        self._runs = runs
        self._blobs = blobs

    def records(self) -> list[RoundRecord]:
        """All rounds so far, in order."""
        return self._runs.rounds(self._run_id)

    def aggregate(self, record: RoundRecord) -> Arrays:
        """The model after that round."""
        return load_arrays(self._blobs, record.aggregate_sha256)

    def kept(self, arrays: Arrays, sha: Sha256 | None = None) -> Arrays:
        """The same arrays, and a blob of them that is sent to merchants as it is.

        Args:
            arrays: in memory.
            sha: the blob that holds them; None stores them.
        """
        stored = load_arrays(self._blobs, sha or store_arrays(self._blobs, arrays))
        return KeptArrays(held=arrays, stored=stored)

    def strategy(self, record: RoundRecord) -> Content | None:
        """What the strategy remembered after that round."""
        if record.strategy_sha256 is None:
            return None
        return Content.from_bytes(self._blobs.read(record.strategy_sha256))

    def write(self, outcome: RoundOutcome) -> RoundRecord:
        """Keeps a round durably; from here the run goes on after any crash."""
        accepted = {name: outcome.rows[name] for name in outcome.accepted}
        record = RoundRecord(
            number=outcome.number,
            cohort=sorted(outcome.rows),
            accepted={name: Sha256(row.result_sha256 or "") for name, row in accepted.items()},
            refused={name: _short(refusal) for name, refusal in outcome.refused.items()},
            aggregate_sha256=store_arrays(self._blobs, outcome.aggregate),
            seconds=time.monotonic() - outcome.started,
            down_bytes=max(row.content_bytes for row in outcome.rows.values()),
            up_bytes=sum(row.result_bytes for row in accepted.values()) // len(accepted),
            began={
                name: row.round_number
                for name, row in outcome.rows.items()
                if row.round_number != outcome.number
            },
            strategy_sha256=self._keep(outcome.strategy),
        )
        self._runs.checkpoint(self._run_id, record)
        _log.info(
            "run %s round %s: %s of %s updates",
            self._run_id,
            record.number,
            len(record.accepted),
            len(record.cohort),
        )
        return record

    def _keep(self, content: Content | None) -> Sha256 | None:
        return None if content is None else self._blobs.put(content.to_bytes())

    def tail_average(self, fraction: float) -> Arrays:
        """The mean of the last aggregates; they are noised already, so it costs no privacy."""
        records = self.records()
        tail = records[-max(1, round(len(records) * fraction)) :]
        last = self.aggregate(tail[-1])
        sums = {name: np.zeros(array.shape, np.float64) for name, array in last.items()}
        for record in tail:
            for name, array in self.aggregate(record).items():
                sums[name] += array
        # An array even where the mean is a scalar: a record holds arrays.
        return {name: np.asarray(sums[name] / len(tail), last[name].dtype) for name in last}


def store_arrays(blobs: BlobStore, arrays: Arrays) -> Sha256:
    """Keeps arrays as a blob; returns its name."""
    return blobs.write(Content(arrays={ARRAYS: arrays}).pieces())


def load_arrays(blobs: BlobStore, sha: Sha256) -> StoredArrays:
    """The arrays of such a blob, each read when it is asked for."""
    return stored_arrays(blobs.checked(sha), ARRAYS, sha)


def _short(refusal: Refusal) -> Refusal:
    return Refusal(reason=refusal.reason[:_MAX_REASON], sentence=refusal.sentence[:_MAX_SENTENCE])
