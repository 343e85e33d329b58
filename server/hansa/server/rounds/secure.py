"""A round whose updates the server sees only as a sum: the protocol's stages as durable tasks.

Every stage is a set of tasks, ``run/round/stage/merchant``, and everything the server knows follows
from their replies. A server that was killed posts the same tasks again, finds those that are done,
and comes to the same roster, the same lists and the same sum. Whoever stays away in a stage is left
out from there on, until fewer are left than the threshold. Rounds of a block have the roster and
the shares of its first one: see ``SecureBlocks``.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from hansa.core.content import Content
from hansa.core.errors import HansaError, QuorumNotMetError, UpdateRejectedError
from hansa.core.ids import MerchantId
from hansa.core.privacy.noise_share import mean_step
from hansa.core.secure import collector
from hansa.core.secure.collector import Agreed, Dealt, Masked, MaskedSum, Rejected
from hansa.core.secure.messages import names_content
from hansa.core.secure.protocol import SURVIVORS, TRAIN, UNMASK
from hansa.core.secure.vector import moved, size_of
from hansa.core.update import Arrays, check_update
from hansa.server.rounds.flower import make_reply, to_records
from hansa.server.rounds.intake import ARRAYS, METRICS, Intake
from hansa.server.rounds.secure_blocks import SecureBlocks
from hansa.server.rounds.stages import Stages, note
from hansa.server.rounds.strategies import WEIGHT_KEY
from hansa.server.state.runs import Refusal


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

    blocks: SecureBlocks
    number: int

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
        around = self.blocks.around
        names = around.grid.names()
        intake = SumIntake(names, max_norm=around.plan.federation.max_update_norm)
        asked = {names[message.metadata.dst_node_id]: message for message in messages}
        try:
            self._carry_out(asked, model, intake)
        except QuorumNotMetError as error:
            raise QuorumNotMetError(
                f"round {self.number}: {error}{_reasons(intake.refused)}"
            ) from error
        return intake

    def _carry_out(
        self, asked: Mapping[MerchantId, Message], model: Arrays, intake: SumIntake
    ) -> None:
        around, size = self.blocks.around, size_of(model)
        stages = Stages(around, self.number, intake.refused)
        dealt = self.blocks.dealt(self.number, list(asked), stages)
        masked = self._masked(stages, dealt, asked, size)
        agreed = _votes(stages, masked)
        total = _unmask(stages, agreed)
        mean = moved(model, mean_step(around.plan, total, len(masked.survivors)))
        try:
            check_update(model, mean, max_norm=around.plan.federation.max_update_norm)
        except UpdateRejectedError as error:
            raise QuorumNotMetError(f"the mean of the updates is refused: {error}") from error
        intake.close_sum(masked.survivors, _reply_with(stages, mean))

    def _masked(
        self, stages: Stages, dealt: Dealt, asked: Mapping[MerchantId, Message], size: int
    ) -> Masked:
        """Stage 3: each masked update is added to the sum and freed as it comes."""
        cohort = self.blocks.around.plan.federation.cohort
        enough = max(cohort, dealt.roster.threshold) if cohort is not None else None
        total = MaskedSum(dealt, size)

        def take(name: MerchantId, content: Content) -> bool:
            try:
                total.add(name, content)
            except HansaError as error:
                stages.reject({name: str(error)})
            return enough is not None and total.count >= enough

        stages.each(TRAIN, _with_sharers(asked, dealt), take)
        return total.close()


def _votes(stages: Stages, masked: Masked) -> Agreed:
    """Stage 4."""
    request = to_records(names_content(survivors=masked.survivors))
    answers = stages.gather(SURVIVORS, dict.fromkeys(masked.survivors, request))
    agreed, rejected = collector.collect_votes(masked, answers)
    note(SURVIVORS, rejected)
    return agreed


def _unmask(stages: Stages, agreed: Agreed) -> npt.NDArray[np.float64]:
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
        name: to_records(agreed.request_for(name).to_content()) for name in agreed.masked.survivors
    }
    stages.each(UNMASK, requests, take)
    total, rejected = sums[0] if sums else collector.unmask(agreed, answers)
    note(UNMASK, rejected)
    return total


def _reply_with(stages: Stages, mean: Arrays) -> Message:
    """The mean as if one merchant had sent it."""
    if stages.last is None:
        raise QuorumNotMetError("no merchant answered")
    arrays = ArrayRecord({name: Array(array) for name, array in mean.items()})
    records = RecordDict({ARRAYS: arrays, METRICS: MetricRecord({WEIGHT_KEY: 1})})
    return make_reply(records, stages.last.metadata)


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


def _reasons(refused: Mapping[MerchantId, Refusal]) -> str:
    if not refused:
        return ""
    reasons = (f"{name}: {why.reason}: {why.sentence}" for name, why in sorted(refused.items()))
    return f" ({'; '.join(reasons)})"
