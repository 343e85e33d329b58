"""The judge of the chaos runs must itself notice what it is there to notice."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks.federation_parts.chaos_verdict import (
    Verdict,
    _judge_commits,
    _judge_reservations,
    _same_models,
)
from benchmarks.federation_parts.payload import PAYLOADS, reply, trained

from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.evidence import RoundRecord
from hansa.core.privacy.entries import Commit, Entry, Reserve
from hansa.core.storage import BlobStore
from hansa.core.update import Arrays

RUN = "chaos-0001"
SENT = "a" * 64
OTHER = "b" * 64


def reserved(number: int) -> Entry:
    body = Reserve.model_construct(id=f"{RUN}/{number}/train/m-0", run=RUN, round=number)
    return Entry.model_construct(body=body)


def committed(number: int, sha: str = SENT) -> Entry:
    body = Commit.model_construct(id=f"{RUN}/{number}/train/m-0", sha256=sha)
    return Entry.model_construct(body=body)


def row(number: int, **outcome: object) -> dict[int, RoundRecord]:
    return {number: RoundRecord(round=number, cohort=("m-0",), accepted={}, **outcome)}


def accepted(number: int, sha: str = SENT) -> dict[int, RoundRecord]:
    return {number: RoundRecord(round=number, cohort=("m-0",), accepted={"m-0": sha})}


def judged(rounds: dict[int, RoundRecord], entries: list[Entry]) -> tuple[int, int, int, int]:
    """(wrong charges, lost updates, late, interrupted)."""
    verdict = Verdict()
    _judge_reservations(verdict, "m-0", RUN, rounds, entries)
    _judge_commits(verdict, "m-0", RUN, rounds, entries)
    return verdict.wrong_charges, verdict.lost_updates, verdict.late, verdict.interrupted


class TestTheLedgers:
    def test_one_charge_and_one_release_of_the_accepted_bytes_is_right(self) -> None:
        assert judged(accepted(1), [reserved(1), committed(1)]) == (0, 0, 0, 0)

    def test_a_task_that_is_charged_twice_is_wrong(self) -> None:
        twice = [reserved(1), reserved(1), committed(1)]
        assert judged(accepted(1), twice)[0] >= 1

    def test_an_accepted_update_without_a_charge_is_wrong(self) -> None:
        assert judged(accepted(1), [committed(1)])[0] == 1

    def test_a_charge_for_a_task_that_the_run_never_had_is_wrong(self) -> None:
        entries = [reserved(1), committed(1), reserved(2)]
        assert judged(accepted(1), entries)[0] == 1

    def test_an_interrupted_task_stays_charged_once(self) -> None:
        rounds = row(1, refused={"m-0": "interrupted: an earlier attempt broke off"})
        assert judged(rounds, [reserved(1)]) == (0, 0, 0, 1)
        assert judged(rounds, [])[0] == 1

    def test_other_bytes_than_the_released_are_wrong(self) -> None:
        assert judged(accepted(1, OTHER), [reserved(1), committed(1)])[0] == 1

    def test_a_released_update_that_nobody_accepted_is_lost(self) -> None:
        rounds = row(1, refused={"m-0": "rejected: it cannot be read"})
        assert judged(rounds, [reserved(1), committed(1)])[1] == 1

    def test_a_released_update_of_a_round_that_is_missing_is_lost(self) -> None:
        assert judged({}, [reserved(1), committed(1)])[1] == 1

    def test_an_update_that_its_round_calls_late_is_not_lost(self) -> None:
        rounds = row(1, refused={"m-0": "deadline: no answer before the deadline"})
        assert judged(rounds, [reserved(1), committed(1)]) == (0, 0, 1, 0)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


def mean_of(model: Arrays, number: int) -> Arrays:
    """The mean of the updates of m-0 and m-1, whose steps are in the ratio of 1 to 2."""
    low, high = (trained(model, name, number) for name in ("m-0", "m-1"))
    return {name: (low[name] + high[name]) / np.float32(2) for name in model}


def checkpoint(blobs: BlobStore, began: Arrays, aggregate: Arrays, number: int) -> RoundRecord:
    names = ("m-0", "m-1")
    return RoundRecord(
        round=number,
        cohort=names,
        accepted={name: sha256_hex(reply(began, name, number)) for name in names},
        aggregate_sha256=blobs.put(Content(arrays={"arrays": aggregate}).to_bytes()),
    )


class TestTheModels:
    def test_two_rounds_of_exact_means_are_equal(self, blobs: BlobStore) -> None:
        start = PAYLOADS["lora"].model()
        first = mean_of(start, 1)
        second = mean_of(first, 2)
        rounds = [checkpoint(blobs, start, first, 1), checkpoint(blobs, first, second, 2)]
        verdict = Verdict()
        assert _same_models(verdict, rounds, blobs, "lora")
        assert verdict.findings == []

    def test_an_aggregate_that_is_off_in_one_value_is_noticed(self, blobs: BlobStore) -> None:
        start = PAYLOADS["lora"].model()
        changed = {name: array.copy() for name, array in mean_of(start, 1).items()}
        changed["layer-007"][3, 5] += np.float32(0.001)
        verdict = Verdict()
        assert not _same_models(verdict, [checkpoint(blobs, start, changed, 1)], blobs, "lora")
        assert len(verdict.findings) == 1

    def test_an_update_of_other_bytes_is_noticed(self, blobs: BlobStore) -> None:
        start = PAYLOADS["lora"].model()
        row = checkpoint(blobs, start, mean_of(start, 1), 1)
        forged = row.model_copy(update={"accepted": {**row.accepted, "m-1": OTHER}})
        verdict = Verdict()
        _same_models(verdict, [forged], blobs, "lora")
        assert verdict.lost_updates == 1
