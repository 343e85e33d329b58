"""The stages on the server's side, over a grid in memory whose merchants answer at once."""

import datetime as dt
import random
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, RecordDict

from hansa.core.content import Content
from hansa.core.errors import InvalidInputError, QuorumNotMetError
from hansa.core.identity import Credentials, Identity, Role, issue
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import RunPlan
from hansa.core.secure.protocol import Setting
from hansa.core.secure.roster import Keys, Trust
from hansa.core.update import Arrays
from hansa.server.rounds.flower import adopt_identity, make_reply, to_content, to_records
from hansa.server.rounds.intake import numpy_arrays
from hansa.server.rounds.secure import SecureRound, SumIntake
from hansa.server.rounds.secure_blocks import SecureBlocks
from hansa.server.rounds.stages import SecureRun
from hansa.server.state.tables import TaskRow
from tests.fakes.hostile_certificates import HOSTILE
from tests.fakes.secure_round import (
    DAY,
    NOW,
    SecureWorld,
    authority,
    certificate_der,
    credentials,
    sign_with,
)
from tests.fakes.toy_federation import toy_plan

RUN = RunId("run-1")
MODEL = {"weights": np.array([1.0, 2.0], np.float32), "bias": np.array(0.5, np.float32)}


class MemoryGrid:
    """Answers of real members, kept by round and stage as the tasks' table keeps them.

    ``steps`` says by how much each member moves the model. ``gone`` maps a stage, or ``2/train`` of
    one round, to those who do not answer it. All others' answers are there at once, in an order
    that differs each time, and came at ``NOW`` where ``answered`` does not say otherwise.
    ``changed`` alters a member's keys.
    """

    def __init__(self, plan: RunPlan, steps: list[float], seed: int = 0) -> None:
        self.world = SecureWorld(len(steps), where=Setting.of(plan, RUN, 1))
        self.steps = dict(zip(self.world.names, steps, strict=True))
        self.gone: dict[str, set[str]] = {}
        self.kept: dict[tuple[int, str, MerchantId], bytes] = {}
        self.asked: dict[str, list[MerchantId]] = {}
        self.answered: dict[MerchantId, dt.datetime] = {}
        self.changed: dict[MerchantId, Callable[[Keys], Keys]] = {}
        self.begun: list[tuple[int, str]] = []
        """Every stage of a round that somebody was asked for, in order."""
        self._first = Setting.of(plan, RUN, 1)
        self._random = random.Random(seed)

    def begin(self, round_number: int, phase: str) -> None:
        self._round, self._stage = round_number, phase
        self.world.turn((round_number - 1) % self._first.rounds)

    def names(self) -> dict[int, MerchantId]:
        return dict(enumerate(self.world.names, 10))

    def asked_before(self) -> list[int]:
        where = (self._round, self._stage)
        return [id_ for id_, name in self.names().items() if (*where, name) in self.kept]

    def replies(
        self, messages: Iterable[Message], *, timeout_s: float
    ) -> Generator[Message, None, None]:
        ready = [(self.names()[m.metadata.dst_node_id], m) for m in messages]
        self.asked[self._stage] = [name for name, _ in ready]
        self.begun.append((self._round, self._stage))
        for name, message in ready:  # all have come before the first is looked at
            self._answer(name, to_content(message.content).to_bytes())
        self._random.shuffle(ready)
        where = (self._round, self._stage)
        ready.sort(key=lambda pair: (*where, pair[0]) not in self.kept)  # time is up at last
        for name, message in ready:
            yield self._reply(name, message.metadata.dst_node_id)

    def rows(
        self, round_number: int, phase: str, merchants: Iterable[MerchantId]
    ) -> Sequence[TaskRow]:
        return [
            TaskRow(merchant=name, answered=self.answered.get(name, NOW).timestamp())
            for name in merchants
            if (round_number, phase, name) in self.kept
        ]

    def _reply(self, name: MerchantId, node_id: int) -> Message:
        metadata = Metadata(
            run_id=1,
            message_id="",
            src_node_id=node_id,
            dst_node_id=1,
            reply_to_message_id=name,
            group_id="1",
            created_at=time.time(),
            ttl=60.0,
            message_type="query",
        )
        kept = self.kept.get((self._round, self._stage, name))
        if kept is None:
            return make_reply(Error(1, "deadline: no answer before the deadline"), metadata)
        return make_reply(to_records(Content.from_bytes(kept)), metadata)

    def _answer(self, name: MerchantId, request: bytes) -> None:
        key = (self._round, self._stage, name)
        gone = self.gone.get(self._stage, set()) | self.gone.get(f"{key[0]}/{key[1]}", set())
        if key not in self.kept and name not in gone:
            self.kept[key] = self._answers()[self._stage](name, request)

    def _answers(self) -> dict[str, Callable[[MerchantId, bytes], bytes]]:
        return {
            "keys": self._keys,
            "shares": self._shares,
            "train": self._masked,
            "survivors": lambda name, request: self._next("survivors", "vote", name, request),
            "unmask": lambda name, request: self._next("unmask", "reveal", name, request),
        }

    def _keys(self, name: MerchantId, request: bytes) -> bytes:
        own, world = credentials(name), self.world
        world.states[name] = world.members[name].advertise(
            request,
            sign=sign_with(own),
            certificate=certificate_der(own),
            entropy=world.entropies[name],
        )
        answer = world.states[name].reply("keys")
        if name in self.changed:
            keys = Keys.parse(name, Content.from_bytes(answer))
            return self.changed[name](keys).to_content().to_bytes()
        return answer

    def _shares(self, name: MerchantId, request: bytes) -> bytes:
        world = self.world
        world.states[name] = world.members[name].share(
            world.states[name], request, trust=world.trust, entropy=world.entropies[name]
        )
        return world.states[name].reply("shares")

    def _masked(self, name: MerchantId, request: bytes) -> bytes:
        world = self.world
        world.states[name] = world.members[name].begin_masking(world.states[name], request)
        size = sum(array.size for array in MODEL.values())
        return (
            world.members[name]
            .masked(world.states[name], np.full(size, self.steps[name]))
            .to_bytes()
        )

    def _next(self, stage: str, verb: str, name: MerchantId, request: bytes) -> bytes:
        member = self.world.members[name]
        self.world.states[name] = getattr(member, verb)(self.world.states[name], request)
        return self.world.states[name].reply(stage, self.world.setting.at)


def plan_of(prepared_rounds: int = 1, **federation: Any) -> RunPlan:
    secure = {"prepared_rounds": prepared_rounds}
    return toy_plan(**{"quorum": 3, "secure_aggregation": secure, **federation})


def go_on() -> None:
    """Nobody stops the run."""


def blocks_of(grid: MemoryGrid, plan: RunPlan) -> SecureBlocks:
    return SecureBlocks(
        SecureRun(
            grid=grid,
            plan=plan,
            run_id=RUN,
            trust=Trust(authorities=(authority().certificate,)),
            go_on=go_on,
        )
    )


def collect(
    grid: MemoryGrid,
    plan: RunPlan,
    model: Arrays | None = None,
    *,
    blocks: SecureBlocks | None = None,
    number: int = 1,
    asked: Sequence[str] | None = None,
) -> SumIntake:
    """One round; ``blocks`` is that of a server that went on, a fresh one of one that restarted."""
    adopt_identity()
    around = SecureRound(blocks=blocks or blocks_of(grid, plan), number=number)
    arrays = {name: Array(array) for name, array in (model or MODEL).items()}
    record = RecordDict(
        {"arrays": ArrayRecord(arrays), "config": ConfigRecord({"server-round": 1})}
    )
    messages = [
        Message(record, dst_node_id=node_id, message_type="train")
        for node_id, name in grid.names().items()
        if asked is None or name in asked
    ]
    return around.collect(messages, model or MODEL)


def mean_of(intake: SumIntake) -> dict[str, np.ndarray]:
    (reply,) = intake.in_order()
    assert dict(reply.content.metric_records["metrics"]) == {"num-examples": 1}
    return dict(numpy_arrays(reply.content.array_records["arrays"]))


def test_the_strategy_gets_one_update_that_is_the_mean() -> None:
    plan = plan_of()
    grid = MemoryGrid(plan, [1.0, 2.0, 3.0, 6.0])
    intake = collect(grid, plan)
    assert sorted(intake.valid) == grid.world.names
    assert intake.refused == {}
    for name, array in mean_of(intake).items():
        assert np.array_equal(array, MODEL[name] + np.float32(3.0))


def test_whatever_came_before_a_cohort_was_closed_counts_in_any_order() -> None:
    """A server that goes on after a crash must not choose other members than the first time."""
    plan = plan_of(cohort=4, over_selection=0.5)
    for seed in range(6):
        grid = MemoryGrid(plan, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], seed)
        intake = collect(grid, plan)
        assert sorted(intake.valid) == grid.world.names
        assert np.array_equal(mean_of(intake)["bias"], np.float32(0.5 + 3.5))


def test_who_was_too_late_for_the_cohort_is_surplus_and_not_at_fault() -> None:
    plan = plan_of(cohort=5, over_selection=0.2)
    grid = MemoryGrid(plan, [1.0] * 6)
    grid.gone = {"train": {"m03"}}
    intake = collect(grid, plan)
    assert {name: why.reason for name, why in intake.refused.items()} == {"m03": "surplus"}
    assert len(intake.valid) == 5


def test_a_server_that_begins_again_comes_to_the_same_sum() -> None:
    plan = plan_of()
    grid = MemoryGrid(plan, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    grid.gone = {"shares": {"m05"}, "train": {"m02"}}
    first = collect(grid, plan)
    again = collect(grid, plan)
    assert sorted(first.valid) == sorted(again.valid)
    assert first.refused == again.refused
    assert set(first.refused) == {"m02", "m05"}
    for name, array in mean_of(first).items():
        assert np.array_equal(mean_of(again)[name], array)


def test_members_who_are_gone_after_their_update_are_in_the_sum() -> None:
    plan = plan_of()
    grid = MemoryGrid(plan, [1.0, 2.0, 3.0, 6.0])
    grid.gone = {"survivors": {"m01"}, "unmask": {"m01"}}
    intake = collect(grid, plan)
    assert sorted(intake.valid) == grid.world.names
    assert np.array_equal(mean_of(intake)["bias"], np.float32(3.5))


@pytest.mark.parametrize("stage", ["keys", "shares", "train", "survivors", "unmask"])
def test_below_the_threshold_every_stage_ends_the_round_with_its_reason(stage: str) -> None:
    plan = plan_of()
    grid = MemoryGrid(plan, [1.0] * 4)
    grid.gone = {stage: {"m00", "m01"}}
    with pytest.raises(QuorumNotMetError, match=r"^round 1: 2 .*") as failure:
        collect(grid, plan)
    if stage in ("keys", "shares", "train"):
        assert "m00: deadline: no answer before the deadline" in str(failure.value)
    assert list(grid.asked)[-1] == stage


def test_a_mean_beyond_the_plans_bound_is_refused() -> None:
    plan = plan_of(max_update_norm=1.0)
    with pytest.raises(QuorumNotMetError, match=r"mean of the updates is refused.*norm"):
        collect(MemoryGrid(plan, [1.0, 1.0, 1.0]), plan)


def test_a_model_with_integers_is_refused_before_anybody_is_asked() -> None:
    plan = plan_of()
    grid = MemoryGrid(plan, [1.0] * 3)
    with pytest.raises(InvalidInputError, match="floating-point"):
        collect(grid, plan, {**MODEL, "steps": np.array(3, np.int64)})
    assert grid.asked == {}


BAD = MerchantId("m01")


def of_small_order(keys: Keys) -> Keys:
    """The member signs it itself."""
    where = Setting.of(plan_of(deadline_s=22.5), RUN, 1)
    public = {**keys.public, "masking": bytes(32)}
    own = sign_with(credentials(BAD))
    return Keys.signed(where, BAD, public, sign=own, certificate=keys.certificate)


def certified(begin: dt.datetime, end: dt.datetime) -> Callable[[Keys], Keys]:
    """The same keys under another certificate of the same member and key, as renewal leaves it."""
    key, identity = credentials(BAD).key, Identity(role=Role.MERCHANT, name=BAD)
    made = issue(authority(), key.public_key(), identity, now=begin, valid_for=end - begin)
    der = certificate_der(Credentials(key=key, certificate=made))
    return lambda keys: replace(keys, certificate=der)


def hostile(kind: str) -> Callable[[Keys], Keys]:
    der = HOSTILE[kind](
        Identity(role=Role.MERCHANT, name=BAD), credentials(BAD).key, credentials(BAD)
    )
    return lambda keys: replace(keys, certificate=der)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (of_small_order, "the masking key of m01 is of small order"),
        (certified(NOW - 2 * DAY, NOW - DAY), "m01's certificate is not valid now"),
        (certified(NOW, NOW + dt.timedelta(seconds=344)), "m01's certificate ends within 0:05:45"),
        (hostile("an unknown version"), "m01 shows no usable certificate"),
        (hostile("an unknown kind of key"), "m01's certificate is not of this federation"),
    ],
    ids=["small order", "expired", "ends in the round", "version", "kind of key"],
)
def test_a_member_whose_keys_would_stop_all_others_is_left_out_by_name(change, reason) -> None:
    """Deadlines of 22.5 s: twice that and five minutes for clocks are 5 min 45 s."""
    plan = plan_of(deadline_s=22.5)
    grid = MemoryGrid(plan, [1.0, 2.0, 3.0, 8.0])
    grid.changed = {BAD: change}
    first, again = collect(grid, plan), collect(grid, plan)
    for intake in (first, again):
        assert list(intake.refused) == [BAD]
        assert intake.refused[BAD].reason == "rejected"
        assert intake.refused[BAD].sentence.startswith(reason)
        assert np.array_equal(mean_of(intake)["bias"], np.float32(0.5 + 4.0))


def test_a_certificate_is_judged_when_its_answer_came_and_not_when_it_is_read() -> None:
    """Valid from ``NOW`` for a day, however late a server reads it; and not for a later answer."""
    plan = plan_of()
    grid = MemoryGrid(plan, [1.0] * 4)
    grid.answered = {MerchantId("m03"): NOW + 2 * DAY}
    for _ in range(2):
        intake = collect(grid, plan)
        assert list(intake.refused) == ["m03"]
        assert "not valid now" in intake.refused[MerchantId("m03")].sentence


class TestLaterRoundsOfABlock:
    """Three rounds share the keys and shares of the first."""

    STAGES = ("train", "survivors", "unmask")

    def test_begin_with_the_update_and_have_a_mean_of_their_own(self) -> None:
        plan = plan_of(3, rounds=3)
        grid = MemoryGrid(plan, [1.0, 2.0, 3.0, 6.0])
        blocks = blocks_of(grid, plan)
        for number in (1, 2, 3):
            intake = collect(grid, plan, blocks=blocks, number=number)
            assert sorted(intake.valid) == grid.world.names
            assert np.array_equal(mean_of(intake)["bias"], np.float32(3.5))
        stages = [number for number, stage in grid.begun if stage in ("keys", "shares")]
        assert stages == [1, 1]
        assert [stage for number, stage in dict.fromkeys(grid.begun) if number == 3] == list(
            self.STAGES
        )

    def test_have_the_members_of_the_first_after_a_restart(self) -> None:
        """A server that knows nothing but the tasks, at the beginning and in the middle."""
        plan = plan_of(3, rounds=3)
        grid = MemoryGrid(plan, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
        grid.gone = {"shares": {"m05"}, "2/train": {"m02"}, "3/unmask": {"m00"}}
        collect(grid, plan)
        for number, missing in ((2, {"m02"}), (2, {"m02"}), (3, set())):
            kept = dict(grid.kept)
            asked = [name for name in grid.world.names if name != "m05"]
            intake = collect(grid, plan, number=number, asked=asked)
            assert set(intake.refused) == missing
            assert len(intake.valid) == 6 - len(missing)
            assert {key: grid.kept[key] for key in kept} == kept

    def test_can_be_asked_of_the_sharers_alone(self) -> None:
        plan = plan_of(3, rounds=4)
        grid = MemoryGrid(plan, [1.0] * 5)
        grid.gone = {"shares": {"m04"}}
        blocks = blocks_of(grid, plan)
        assert blocks.sharers(1) is None
        collect(grid, plan, blocks=blocks)
        for again in (blocks, blocks_of(grid, plan)):
            sharers = again.sharers(2)
            assert sharers is not None
            assert (sorted(sharers.names), sharers.threshold) == (grid.world.names[:4], 4)
        assert blocks.sharers(4) is None
        assert [blocks.phases(number) for number in (1, 2, 4)] == [
            ("keys", "train"),
            ("train",),
            ("keys", "train"),
        ]

    def test_mask_for_those_alone_who_are_asked(self) -> None:
        """Of seven members five are asked: nobody waits for the other two, and nothing of theirs
        is revealed."""
        plan = plan_of(3, rounds=3)
        grid = MemoryGrid(plan, [1.0] * 5 + [50.0, 50.0])
        blocks = blocks_of(grid, plan)
        collect(grid, plan, blocks=blocks)
        intake = collect(grid, plan, blocks=blocks, number=2, asked=grid.world.names[:5])
        assert np.array_equal(mean_of(intake)["bias"], np.float32(1.5))
        assert grid.asked["unmask"] != grid.world.names
        assert intake.refused == {}

    def test_fail_with_fewer_than_the_threshold_of_the_blocks_members(self) -> None:
        plan = plan_of(3, rounds=3)
        grid = MemoryGrid(plan, [1.0] * 5)
        blocks = blocks_of(grid, plan)
        collect(grid, plan, blocks=blocks)
        with pytest.raises(QuorumNotMetError, match=r"^round 2: 3 of 5 members take part"):
            collect(grid, plan, blocks=blocks, number=2, asked=grid.world.names[:3])

    def test_of_a_full_cohort_leave_the_surplus_out_and_ask_it_again(self) -> None:
        plan = plan_of(3, rounds=3, cohort=5, over_selection=0.2)
        grid = MemoryGrid(plan, [1.0] * 6)
        grid.gone = {"2/train": {"m03"}}
        blocks = blocks_of(grid, plan)
        reasons = [
            {
                name: why.reason
                for name, why in collect(grid, plan, blocks=blocks, number=number).refused.items()
            }
            for number in (1, 2, 3)
        ]
        assert reasons == [{}, {"m03": "surplus"}, {}]
