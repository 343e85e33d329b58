"""A round whose updates the server sees only as a sum: the protocol's five stages as durable tasks.

Every stage is a set of tasks, ``run/round/stage/merchant``, and everything the server knows follows
from their replies. A server that was killed posts the same tasks again, finds those that are done,
and comes to the same roster, the same lists and the same sum. Whoever stays away in a stage is left
out from there on, until fewer are left than the threshold.
"""

import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from hansa.core.content import Content
from hansa.core.errors import HansaError, QuorumNotMetError, UpdateRejectedError
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import RunPlan
from hansa.core.privacy.noise_share import mean_step
from hansa.core.secure import collector
from hansa.core.secure.collector import Agreed, Dealt, Masked, MaskedSum, Rejected
from hansa.core.secure.messages import names_content
from hansa.core.secure.protocol import KEYS, SHARES, SURVIVORS, TRAIN, UNMASK, Setting
from hansa.core.secure.roster import Roster, Trust
from hansa.core.secure.vector import moved, size_of
from hansa.core.update import Arrays, check_update
from hansa.server.rounds.cohort import SURPLUS
from hansa.server.rounds.flower import make_reply, to_content, to_records
from hansa.server.rounds.intake import ARRAYS, METRICS, Intake
from hansa.server.rounds.strategies import WEIGHT_KEY
from hansa.server.state.runs import Refusal
from hansa.server.state.tables import TaskRow

_log = logging.getLogger(__name__)

_COUNTED = (KEYS, SHARES, TRAIN)
"""A fault in one of these leaves a merchant out of the sum."""

_DEADLINE = "deadline"

_CLOCKS_DIFFER = dt.timedelta(minutes=5)
"""By so much a merchant's clock may be ahead; certificates begin so much earlier, too."""


class StageGrid(Protocol):
    """The part of ``RoundGrid`` that the stages need."""

    def begin(self, round_number: int, phase: str) -> None:
        """Names what the next messages belong to."""
        ...

    def names(self) -> dict[int, MerchantId]:
        """Node ids and names of all merchants."""
        ...

    def replies(
        self, messages: Iterable[Message], *, timeout_s: float
    ) -> Generator[Message, None, None]:
        """The replies as they come; closed early, it waits for no more."""
        ...

    def rows(
        self, round_number: int, phase: str, merchants: Iterable[MerchantId]
    ) -> Sequence[TaskRow]:
        """The tasks of a stage as they stand."""
        ...


class SumIntake(Intake):
    """What came of a secure round: who is in the sum, and the sum as the strategy's one reply."""

    def __init__(self, names: Mapping[int, MerchantId], *, max_norm: float) -> None:
        """Begins with nobody in the sum."""
        super().__init__(names, max_norm=max_norm)
        self._mean: list[Message] = []

    def close_sum(self, members: Sequence[MerchantId], mean: Message) -> None:
        """Notes the mean update and whose updates are in it."""
        self.valid = dict.fromkeys(members, mean)
        self._mean = [mean]

    def in_order(self) -> list[Message]:
        """The mean, once: all its members weigh the same."""
        return list(self._mean)


@dataclass(frozen=True, kw_only=True)
class SecureRound:
    """One round of one run."""

    grid: StageGrid
    plan: RunPlan
    run_id: RunId
    number: int
    trust: Trust
    """Who may be a member; each certificate is judged when its holder's keys came."""
    go_on: Callable[[], None]
    """Raises when the run is to end."""

    def collect(self, messages: Sequence[Message], model: Arrays) -> SumIntake:
        """Carries the round through all stages.

        Args:
            messages: the strategy's, one for each merchant asked.
            model: the arrays that the updates step away from, as the merchants read them.

        Returns:
            The merchants in the sum, the reasons for all others, and one reply with their mean.

        Raises:
            QuorumNotMetError: too few answered a stage, or their mean is out of the plan's bounds;
                nothing of any update was revealed but, in the last case, the mean.
            InvalidInputError: the model holds arrays that cannot be summed.
        """
        names = self.grid.names()
        intake = SumIntake(names, max_norm=self.plan.federation.max_update_norm)
        try:
            self._carry_out(
                {names[message.metadata.dst_node_id]: message for message in messages},
                model,
                intake,
            )
        except QuorumNotMetError as error:
            raise QuorumNotMetError(
                f"round {self.number}: {error}{_reasons(intake.refused)}"
            ) from error
        return intake

    def _carry_out(
        self, asked: Mapping[MerchantId, Message], model: Arrays, intake: SumIntake
    ) -> None:
        stage = _Stages(self, intake, {name: id_ for id_, name in self.grid.names().items()})
        size = size_of(model)
        roster = stage.keys(list(asked))
        dealt = stage.shares(roster)
        masked = stage.train(dealt, asked, size)
        agreed = stage.votes(masked)
        total = stage.unmask(agreed)
        mean = moved(model, mean_step(self.plan, total, len(masked.survivors)))
        try:
            check_update(model, mean, max_norm=self.plan.federation.max_update_norm)
        except UpdateRejectedError as error:
            raise QuorumNotMetError(f"the mean of the updates is refused: {error}") from error
        intake.close_sum(masked.survivors, stage.reply_with(mean))


class _Stages:
    """The stages of one round; each posts its tasks and takes the replies as they come."""

    def __init__(
        self, around: SecureRound, intake: SumIntake, node_ids: Mapping[MerchantId, int]
    ) -> None:
        self._round = around
        self._intake = intake
        self._node_ids = node_ids
        self._names = around.grid.names()
        self._last: Message | None = None

    def keys(self, asked: Sequence[MerchantId]) -> Roster:
        """Stage 1."""
        begin = to_records(names_content(asked=[]))
        answers = self._gather(KEYS, dict.fromkeys(asked, begin))
        where = Setting.of(self._round.plan, self._round.run_id, self._round.number)
        # The members judge each certificate by their clocks when they get the roster: at most two
        # deadlines after the keys came.
        lasting = 2 * dt.timedelta(seconds=self._round.plan.federation.deadline_s) + _CLOCKS_DIFFER
        trust = replace(self._round.trust, lasting=lasting)
        roster, rejected = collector.collect_keys(where, answers, trust, self._answered(answers))
        self._reject(rejected)
        return roster

    def shares(self, roster: Roster) -> Dealt:
        """Stage 2."""
        request = to_records(roster.to_content())
        answers = self._gather(SHARES, dict.fromkeys(roster.positions, request))
        dealt, rejected = collector.collect_shares(roster, answers)
        self._reject(rejected)
        return dealt

    def train(self, dealt: Dealt, asked: Mapping[MerchantId, Message], size: int) -> Masked:
        """Stage 3: each masked update is added to the sum and freed as it comes."""
        cohort = self._round.plan.federation.cohort
        enough = max(cohort, dealt.roster.threshold) if cohort is not None else None
        total = MaskedSum(dealt, size)

        def take(name: MerchantId, content: Content) -> bool:
            try:
                total.add(name, content)
            except HansaError as error:
                self._reject({name: str(error)})
            return enough is not None and total.count >= enough

        self._each(TRAIN, _with_sharers(asked, dealt), take)
        return total.close()

    def votes(self, masked: Masked) -> Agreed:
        """Stage 4."""
        request = to_records(names_content(survivors=masked.survivors))
        answers = self._gather(SURVIVORS, dict.fromkeys(masked.survivors, request))
        agreed, rejected = collector.collect_votes(masked, answers)
        _note(SURVIVORS, rejected)
        return agreed

    def unmask(self, agreed: Agreed) -> npt.NDArray[np.float64]:
        """Stage 5: over as soon as the shares suffice, so that nobody who is gone is waited for."""
        answers: dict[MerchantId, Content] = {}
        sums: list[tuple[npt.NDArray[np.float64], Rejected]] = []

        def take(name: MerchantId, content: Content) -> bool:
            answers[name] = content
            if not sums and len(answers) >= agreed.masked.dealt.roster.threshold:
                with contextlib.suppress(QuorumNotMetError):  # more right shares may come yet
                    sums.append(collector.unmask(agreed, answers))
            return bool(sums)

        requests = {
            name: to_records(agreed.request_for(name).to_content())
            for name in agreed.masked.survivors
        }
        self._each(UNMASK, requests, take)
        total, rejected = sums[0] if sums else collector.unmask(agreed, answers)
        _note(UNMASK, rejected)
        return total

    def reply_with(self, mean: Arrays) -> Message:
        """The mean as if one merchant had sent it."""
        if self._last is None:
            raise QuorumNotMetError("no merchant answered")
        arrays = ArrayRecord({name: Array(array) for name, array in mean.items()})
        records = RecordDict({ARRAYS: arrays, METRICS: MetricRecord({WEIGHT_KEY: 1})})
        return make_reply(records, self._last.metadata)

    def _answered(self, merchants: Iterable[MerchantId]) -> dict[MerchantId, dt.datetime]:
        """When each merchant's keys came: it is written down, so a restart changes nothing."""
        rows = self._round.grid.rows(self._round.number, KEYS, merchants)
        return {
            MerchantId(row.merchant): dt.datetime.fromtimestamp(row.answered, dt.UTC)
            for row in rows
            if row.answered is not None
        }

    def _gather(
        self, stage: str, requests: Mapping[MerchantId, RecordDict]
    ) -> dict[MerchantId, Content]:
        answers: dict[MerchantId, Content] = {}

        def take(name: MerchantId, content: Content) -> bool:
            answers[name] = content
            return False

        self._each(stage, requests, take)
        return answers

    def _each(
        self,
        stage: str,
        requests: Mapping[MerchantId, RecordDict],
        take: Callable[[MerchantId, Content], bool],
    ) -> None:
        """Asks, and hands over every answer once, until ``take`` says that it is enough.

        What had arrived by then is still handed over: whoever was in time is in, in whatever order
        a server that goes on after a crash reads the answers.
        """
        done: set[MerchantId] = set()
        if self._pass(stage, requests, take, done):
            self._pass(stage, requests, take, done, late=SURPLUS)

    def _pass(
        self,
        stage: str,
        requests: Mapping[MerchantId, RecordDict],
        take: Callable[[MerchantId, Content], bool],
        done: set[MerchantId],
        late: str = "",
    ) -> bool:
        """True when ``take`` had enough before all had answered; ``late``: it has enough now."""
        grid = self._round.grid
        grid.begin(self._round.number, stage)
        messages = [
            Message(records, dst_node_id=self._node_ids[name], message_type="train")
            for name, records in requests.items()
        ]
        timeout_s = self._round.plan.federation.deadline_s
        enough = False
        with contextlib.closing(grid.replies(messages, timeout_s=timeout_s)) as replies:
            for reply in replies:
                name = self._names[reply.metadata.src_node_id]
                if name not in done:
                    done.add(name)
                    enough = self._take(stage, name, reply, take, late)
                if enough and not late:
                    break
        self._round.go_on()
        return enough and not late

    def _take(
        self,
        stage: str,
        name: MerchantId,
        reply: Message,
        take: Callable[[MerchantId, Content], bool],
        late: str,
    ) -> bool:
        self._last = reply
        if not reply.has_error():
            return take(name, to_content(reply.content))
        reason, _, sentence = (reply.error.reason or "failed").partition(": ")
        if late and reason == _DEADLINE:
            reason, sentence = late, "the cohort was full"
        if stage in _COUNTED:
            self._intake.refused[name] = Refusal(reason=reason, sentence=sentence)
        else:
            _note(stage, {name: f"{reason}: {sentence}"})
        return False

    def _reject(self, rejected: Rejected) -> None:
        for name, sentence in rejected.items():
            self._intake.refused[name] = Refusal(reason="rejected", sentence=sentence)


def _with_sharers(
    asked: Mapping[MerchantId, Message], dealt: Dealt
) -> dict[MerchantId, RecordDict]:
    """The strategy's contents with the list of sharers; equal contents stay one object."""
    (record,) = names_content(sharers=dealt.sharers).configs.items()
    made: dict[int, RecordDict] = {}
    for name in dealt.sharers:
        content = asked[name].content
        if id(content) not in made:
            made[id(content)] = RecordDict({**content, record[0]: ConfigRecord(dict(record[1]))})
    return {name: made[id(asked[name].content)] for name in dealt.sharers}


def _note(stage: str, rejected: Rejected) -> None:
    """The member's update counts all the same."""
    for name, sentence in rejected.items():
        _log.warning("stage %s without %s: %s", stage, name, sentence)


def _reasons(refused: Mapping[MerchantId, Refusal]) -> str:
    if not refused:
        return ""
    reasons = (f"{name}: {why.reason}: {why.sentence}" for name, why in sorted(refused.items()))
    return f" ({'; '.join(reasons)})"
