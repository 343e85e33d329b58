"""What a run under chaos must still be true to, judged from its evidence alone.

The clients' updates are a function of model, merchant and round, so every one of them, and with
them every aggregate and the last model, can be made again from the list of whose updates were
accepted: that is the run without faults for the same set of accepted updates.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.federation_parts.payload import PAYLOADS, reply, trained
from hansa.audit.verifier import verify
from hansa.client.ledger_store import read_ledger
from hansa.client.site import Site
from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.evidence import Evidence, RoundRecord
from hansa.core.ids import MerchantId, RunId, task_id
from hansa.core.privacy.entries import Commit, Entry, Reserve
from hansa.core.storage import BlobStore, check_sha256
from hansa.core.update import Arrays

_TOLERANCE = 1e-6
"""For each round; the mean of the check is taken in float64, a strategy's in float32."""


@dataclass
class Verdict:
    """Counts of broken promises, and a sentence for each."""

    lost_updates: int = 0
    wrong_charges: int = 0
    late: int = 0
    """Updates that came after the deadline of their round: named in its record, and not lost."""
    interrupted: int = 0
    """Tasks that a crash broke off between reservation and update: charged once, and refused."""
    accepted: int = 0
    final_equal: bool = False
    findings: list[str] = field(default_factory=list)

    def lost(self, sentence: str) -> None:
        """One more update that was released and is nowhere."""
        self.lost_updates += 1
        self.findings.append(sentence)

    def wrong(self, sentence: str) -> None:
        """One more charge that is not what was done."""
        self.wrong_charges += 1
        self.findings.append(sentence)


def judge(
    evidence: Evidence, sites: Iterable[Site], blobs: BlobStore, payload: str, plan_key: str
) -> Verdict:
    """Judges a finished run.

    Args:
        evidence: the run's audit pack, as the server exported it.
        sites: the merchants' own folders, for their own ledgers.
        blobs: where the server keeps the aggregates.
        payload: the name of the model.
        plan_key: the operator's key as the merchants pinned it.
    """
    verdict = Verdict(accepted=sum(len(one.accepted) for one in evidence.run.rounds))
    for site in sites:
        _judge_merchant(verdict, evidence, site)
    report = verify(evidence, plan_key=plan_key)
    for check in report.checks:
        if not check.passed:
            verdict.wrong(f"the auditor: {check.name} {check.where}: {check.detail}")
    verdict.final_equal = _same_models(verdict, evidence.run.rounds, blobs, payload)
    return verdict


def _judge_merchant(verdict: Verdict, evidence: Evidence, site: Site) -> None:
    name = site.path.name
    entries = read_ledger(site.ledger).entries
    held = evidence.ledgers.get(name, ())
    if held != entries[: len(held)]:
        verdict.wrong(f"{name}: the server's copy of the ledger is not the ledger's beginning")
    run = evidence.run.run
    rounds = {one.round: one for one in evidence.run.rounds}
    _judge_reservations(verdict, name, run, rounds, entries)
    _judge_commits(verdict, name, run, rounds, entries)


def _judge_reservations(
    verdict: Verdict,
    name: str,
    run: str,
    rounds: Mapping[int, RoundRecord],
    entries: Sequence[Entry],
) -> None:
    """One reservation for each task that was begun, whatever became of it, and never two."""
    booked = Counter(
        entry.body.id
        for entry in entries
        if isinstance(entry.body, Reserve) and entry.body.run == run
    )
    for task, count in booked.items():
        if count != 1:
            verdict.wrong(f"{task} was charged {count} times")
    asked = {_task(run, number, name) for number, one in rounds.items() if name in one.cohort}
    for task in booked.keys() - asked:
        verdict.wrong(f"{task} was charged and is no task of the run")
    for number, one in rounds.items():
        task, refusal = _task(run, number, name), one.refused.get(name, "")
        if "interrupted" in refusal:
            verdict.interrupted += 1
        if (name in one.accepted or "interrupted" in refusal) and booked[task] != 1:
            verdict.wrong(f"{task} was answered and charged {booked[task]} times")


def _judge_commits(
    verdict: Verdict,
    name: str,
    run: str,
    rounds: Mapping[int, RoundRecord],
    entries: Sequence[Entry],
) -> None:
    """Whatever was released is in its round's aggregate, or its round says that it came late."""
    released = {
        entry.body.id: entry.body.sha256
        for entry in entries
        if isinstance(entry.body, Commit) and entry.body.id.startswith(f"{run}/")
    }
    for number, one in rounds.items():
        task = _task(run, number, name)
        accepted, sent = one.accepted.get(name), released.pop(task, None)
        if accepted == sent:
            continue
        if accepted is not None:
            verdict.wrong(f"{task}: {accepted[:12]} was accepted, the ledger releases {sent}")
        elif "deadline" in one.refused.get(name, ""):
            verdict.late += 1
        else:
            verdict.lost(f"{task} was released and not accepted: {one.refused.get(name)}")
    for task in released:
        verdict.lost(f"{task} was released and its round is not in the run")


def _task(run: str, number: int, merchant: str) -> str:
    return task_id(RunId(run), number, "train", MerchantId(merchant))


def _same_models(
    verdict: Verdict, rounds: Sequence[RoundRecord], blobs: BlobStore, payload: str
) -> bool:
    """Makes every update and every aggregate again.

    Each round follows from the aggregate that it began with: the bytes of its updates exactly, its
    own aggregate within rounding. All models together follow from the first alone, within the
    rounding of so many rounds.
    """
    expected = began = PAYLOADS[payload].model()
    equal = True
    for one in rounds:
        for name, sha in one.accepted.items():
            if sha256_hex(reply(began, name, one.round)) != sha:
                verdict.lost(f"round {one.round}: other bytes of {name} were accepted")
        fresh = _mean([trained(began, name, one.round) for name in one.accepted])
        expected = _mean([trained(expected, name, one.round) for name in one.accepted])
        began = _aggregate(blobs, one)
        if not _close(began, fresh, rounds=1):
            equal = False
            verdict.findings.append(f"round {one.round}: the aggregate is not the accepted's mean")
    return equal and _close(began, expected, rounds=len(rounds))


def _mean(updates: Sequence[Arrays]) -> Arrays:
    return {
        name: np.asarray(
            np.mean([one[name] for one in updates], axis=0, dtype=np.float64), np.float32
        )
        for name in updates[0]
    }


def _aggregate(blobs: BlobStore, one: RoundRecord) -> Arrays:
    sha = check_sha256(one.aggregate_sha256 or "")
    return Content.from_bytes(blobs.read(sha)).arrays["arrays"]


def _close(found: Arrays, expected: Arrays, *, rounds: int) -> bool:
    most = rounds * _TOLERANCE
    return list(found) == list(expected) and all(
        np.allclose(found[name], expected[name], rtol=most, atol=most) for name in expected
    )
