"""The books of a run whose ServerApp is in charge: who took part, and whether enough did."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hansa.core.errors import QuorumNotMetError
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.server.state.runs import Refusal, RoundRecord, Runs
from hansa.server.state.tables import TaskRow

_MAX_SENTENCE = 500
_MAX_REASON = 32


_NOBODY_TRAINED = RoundRecord(
    number=0,
    cohort=[],
    accepted={},
    refused={},
    aggregate_sha256=Sha256(""),
    seconds=0.0,
    down_bytes=0,
    up_bytes=0,
)
"""Round 0 holds the arrays of an app that evaluates or asks, and never trains."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A task that is closed."""

    row: TaskRow
    refusal: Refusal | None
    """Why it has no valid content."""


class AppRounds:
    """Train messages of the same number are a round; evaluations and queries are not booked here.

    Call it under one lock.
    """

    def __init__(self, run_id: RunId, runs: Runs, quorum: int) -> None:
        self._run_id = run_id
        self._runs = runs
        self._quorum = quorum
        self._known = {record.number: record for record in runs.rounds(run_id)}
        self._answers: dict[int, dict[MerchantId, Answer]] = {}
        self._began: dict[int, float] = {}
        self._asked: dict[int, set[MerchantId]] = {}
        self._closed: set[int] = set()

    def begin(self, number: int, asked: Iterable[MerchantId]) -> None:
        """Messages of a round go out; the rounds before it are over, but for answers under way.

        Raises:
            QuorumNotMetError: one of them had fewer valid answers than the plan's quorum.
        """
        self._began.setdefault(number, time.monotonic())
        self._asked.setdefault(number, set()).update(asked)
        for earlier in sorted(self._answers):
            if earlier < number:
                self.check(earlier)

    def note(self, answers: Iterable[Answer]) -> None:
        """Answers came, or will come no more."""
        changed = set()
        for answer in answers:
            number = answer.row.round_number
            self._answers.setdefault(number, {})[MerchantId(answer.row.merchant)] = answer
            changed.add(number)
        for number in sorted(changed):
            self._write(number)

    def check(self, number: int) -> None:
        """Judges a round, once, unless an answer to one of its messages is still to be noted.

        Raises:
            QuorumNotMetError: too few of the answers are valid.
        """
        if self._asked.get(number, set()) <= self._answers[number].keys():
            self._judge(number)

    def end(self, arrays: Sha256 | None) -> None:
        """The app has ended; ``arrays`` names the blob of its last aggregate.

        Raises:
            QuorumNotMetError: a round had fewer valid answers than the plan's quorum.
        """
        for number in sorted(self._answers):
            self._judge(number)
        if arrays is not None:
            last = self._known[max(self._known)] if self._known else _NOBODY_TRAINED
            self._runs.checkpoint(self._run_id, replace(last, aggregate_sha256=arrays))

    def _judge(self, number: int) -> None:
        if number in self._closed:
            return
        self._closed.add(number)
        answers = self._answers[number]
        if sum(answer.refusal is None for answer in answers.values()) < self._quorum:
            raise QuorumNotMetError(_too_few(number, answers, self._quorum))

    def _write(self, number: int) -> None:
        record = self._record(number)
        known = self._known.get(number)
        if known is not None and set(record.cohort) < set(known.cohort):
            return  # the first of the answers that an earlier server had all
        if known is not None and known.accepted == record.accepted:
            record = replace(record, seconds=known.seconds)
        self._known[number] = record
        self._runs.checkpoint(self._run_id, record)

    def _record(self, number: int) -> RoundRecord:
        answers, known = self._answers[number], self._known.get(number)
        rows = {name: one.row for name, one in answers.items() if one.refusal is None}
        return RoundRecord(
            number=number,
            cohort=sorted(answers),
            accepted={name: Sha256(row.result_sha256 or "") for name, row in rows.items()},
            refused={
                name: answer.refusal
                for name, answer in answers.items()
                if answer.refusal is not None
            },
            aggregate_sha256=Sha256("") if known is None else known.aggregate_sha256,
            seconds=time.monotonic() - self._began.get(number, time.monotonic()),
            down_bytes=max(answer.row.content_bytes for answer in answers.values()),
            up_bytes=sum(row.result_bytes for row in rows.values()) // max(1, len(rows)),
        )


def refusal_of(reason: str) -> Refusal:
    """From ``reason: sentence``, as error replies have it."""
    name, _, sentence = reason.partition(": ")
    return Refusal(reason=name[:_MAX_REASON], sentence=sentence[:_MAX_SENTENCE])


def _too_few(number: int, answers: Mapping[MerchantId, Answer], quorum: int) -> str:
    refusals = {name: one.refusal for name, one in answers.items() if one.refusal is not None}
    sentences = {name: f"{why.reason}: {why.sentence}" for name, why in refusals.items()}
    reasons = "; ".join(f"{name}: {sentences[name]}" for name in sorted(sentences))
    return (
        f"round {number} has {len(answers) - len(refusals)} valid answers, the plan's quorum is "
        f"{quorum} ({reasons or 'no more were asked'})"
    )
