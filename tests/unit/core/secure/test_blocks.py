"""A block of rounds: keys and shares once, and all else as in rounds that know nothing of another.

In most tests five members share a block of three rounds; the threshold is four.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hansa.core.content import Content
from hansa.core.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    QuorumNotMetError,
    SignatureError,
)
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.secure import collector, shamir
from hansa.core.secure.collector import Agreed, Prepared
from hansa.core.secure.masks import Purpose, add_mask, derive, private_key
from hansa.core.secure.messages import Deal, names_content
from hansa.core.secure.pairs import add_pair_mask
from hansa.core.secure.protocol import Setting
from hansa.core.secure.roster import Keys, Roster
from hansa.core.secure.state import ERASED, MemberState
from tests.fakes.secure_round import (
    SecureWorld,
    credentials,
    exact_sum,
    random_values,
    setting,
    sign_with,
)
from tests.fakes.toy_federation import toy_plan

SIZE = 20
ROUNDS = 3
ME, OTHER = MerchantId("m00"), MerchantId("m01")
LAST = MerchantId("m04")
STAGES = ("train", "survivors", "unmask")


@pytest.fixture
def world() -> SecureWorld:
    return SecureWorld(members=5, where=setting(rounds=ROUNDS))


@pytest.fixture
def prepared(world: SecureWorld) -> Prepared:
    return world.prepared()


def values_of(world: SecureWorld, at: int = 0):
    return random_values(world.names, SIZE, seed=at)


def agreed_in(world: SecureWorld, prepared: Prepared, at: int, lost=None) -> Agreed:
    world.turn(at)
    return world.agreed(values_of(world, at), lost, prepared.dealt(at))


def reveal(world: SecureWorld, request) -> Content:
    data = request.to_content().to_bytes()
    state = world.members[ME].reveal(world.states[ME], data)
    return Content.from_bytes(state.reply("unmask", world.setting.at))


class TestTheSum:
    @hypothesis_settings(max_examples=15, deadline=None)
    @given(data=st.data(), members=st.integers(3, 7), rounds=st.integers(2, 4))
    def test_is_exact_in_each_round_with_any_drop_outs_above_the_threshold(
        self, data, members: int, rounds: int
    ) -> None:
        """Whoever drops out of one round is back in the next."""
        world = SecureWorld(members, where=setting(rounds=rounds))
        prepared = world.prepared()
        spare = members - prepared.roster.threshold
        for at in range(rounds):
            world.turn(at)
            order = data.draw(st.permutations(world.names))
            stages = data.draw(st.lists(st.sampled_from(STAGES), max_size=spare))
            lost = {stage: set() for stage in STAGES}
            for name, stage in zip(order, stages, strict=False):
                lost[stage].add(name)
            values = values_of(world, at)
            total = world.run(values, lost, prepared.dealt(at))
            inside = [name for name in world.names if name not in lost["train"]]
            assert np.array_equal(total, exact_sum(world.setting, values, inside))

    def test_is_exact_when_a_round_was_left_out_and_some_were_not_asked(self, world, prepared):
        """The second round takes place with nobody; of the third, m04 hears nothing."""
        world.run(values_of(world), dealt=prepared.dealt(0))
        world.turn(2)
        names = world.names[:4]
        dealt = prepared.dealt(2, frozenset(names))
        assert dealt.sharers == tuple(names)
        values = values_of(world, 2)
        total = world.run(values, {"train": {LAST}}, dealt)
        assert np.array_equal(total, exact_sum(world.setting, values, names))

    def test_is_that_of_a_server_that_begins_again_from_the_answers(self, world) -> None:
        roster = world.roster(world.advertise())
        answers = world.share(roster, world.names)
        first, again = (
            collector.prepare(world.roster(world.replies("keys", world.names)), answers)[0]
            for _ in range(2)
        )
        assert again.roster.digest == first.roster.digest
        agreed = agreed_in(world, first, 1, {"train": {LAST}})
        replies = world.reveal(agreed, world.names[:4])
        masked = replace(agreed.masked, dealt=again.dealt(1))
        total = collector.unmask(replace(agreed, masked=masked), replies)[0]
        expected = exact_sum(world.setting, values_of(world, 1), world.names[:4])
        assert np.array_equal(total, expected)

    def test_needs_the_threshold_of_the_blocks_members_in_every_round(self, world, prepared):
        with pytest.raises(QuorumNotMetError, match="3 of 5 members take part"):
            prepared.dealt(1, frozenset(world.names[:3]))


class TestSecrets:
    def test_are_drawn_for_each_round_and_none_comes_twice(self, world: SecureWorld) -> None:
        world.advertise()
        secrets = [
            secret
            for state in world.states.values()
            for one in state.secrets
            for secret in (one.masking, one.seed)
        ]
        assert len(set(secrets)) == 5 * 3 * 2

    def test_what_one_round_reveals_opens_no_other(self, world, prepared) -> None:
        """In the first round m04 survives, in the second it drops out: the server has its first
        seed and its second masking key, and still not its first update."""
        first = agreed_in(world, prepared, 0)
        seed = bytes.fromhex(world.states[LAST].secrets[0].seed)
        given = world.reveal(first, world.names)
        masked = self._masked(world, LAST)
        second = agreed_in(world, prepared, 1, {"train": {LAST}})
        shares = world.reveal(second, world.names[:4])
        masking = bytes.fromhex(world.states[LAST].secrets[1].masking)
        self._assert_given(first, given, seed)
        self._assert_given(second, shares, masking)
        roster = prepared.roster
        add_mask(masked, derive(seed, Purpose.SELF_MASK, roster.round_digest, LAST), sign=-1)
        for name in world.names[:4]:
            add_pair_mask(masked, roster, private_key(masking), LAST, name)
        plain = world.setting.coding.encode(values_of(world)[LAST])
        assert not np.any(masked == plain)

    @staticmethod
    def _masked(world: SecureWorld, name: MerchantId) -> np.ndarray:
        """Its update of the first round, made again: the masks are the same."""
        content = world.members[name].masked(world.states[name], values_of(world)[name])
        return content.arrays["masked"]["values"].copy()

    @staticmethod
    def _assert_given(agreed: Agreed, answers, secret: bytes) -> None:
        """The shares of m04 that came make up this secret."""
        positions = agreed.masked.dealt.roster.positions
        shares = {
            positions[name]: content.arrays["reveal"]["shares"][4].tobytes()
            for name, content in list(answers.items())[:4]
        }
        assert shamir.combine(shares, shamir.weights(list(shares))) == secret

    def test_of_a_round_are_written_over_once_nothing_needs_them(self, world, prepared) -> None:
        """Its own when the list is signed; those of a round that was missed, when a later begins"""
        agreed_in(world, prepared, 1)
        state = world.states[ME].without(1)
        assert [one.are_erased for one in state.secrets] == [True, True, False]
        assert state.secrets[1].masking == ERASED
        late = replace(world.members[ME], setting=world.setting.turn(0))
        with pytest.raises(NotFoundError, match="secrets of round 1 are not here any more"):
            late.begin_masking(state, names_content(sharers=world.names).to_bytes())

    def test_survive_their_way_through_a_file_in_the_middle_of_a_block(self, world, prepared):
        def restarted(state: MemberState) -> MemberState:
            return MemberState.parse(state.to_bytes(), "the state")

        world.run(values_of(world), dealt=prepared.dealt(0))
        world.turn(1)
        world.states = {name: restarted(state) for name, state in world.states.items()}
        masked = world.masked(values_of(world, 1), dealt=prepared.dealt(1))
        world.states = {name: restarted(state) for name, state in world.states.items()}
        agreed, _ = collector.collect_votes(masked, world.vote(masked.survivors, world.names))
        total, _ = collector.unmask(agreed, world.reveal(agreed, world.names))
        assert np.array_equal(total, exact_sum(world.setting, values_of(world, 1), world.names))

    @pytest.mark.parametrize("kept", [1, 30, -1])
    def test_a_torn_last_line_was_never_answered(self, world, prepared, kept: int) -> None:
        agreed_in(world, prepared, 0)
        state = world.states[ME]
        whole, line = state.to_bytes(), state.line("survivors", 0)
        assert whole.endswith(line)
        torn = MemberState.parse(whole[: len(whole) - len(line)] + line[:kept], "the state")
        assert torn.turn(0).survivors == ()
        assert torn.answered("train", names_content(sharers=world.names).to_bytes()) == b""

    def test_a_damaged_line_before_the_last_is_refused(self, world, prepared) -> None:
        agreed_in(world, prepared, 0)
        head, train, vote, _ = world.states[ME].to_bytes().split(b"\n")
        with pytest.raises(InvalidInputError):
            MemberState.parse(b"\n".join((head, train[:-9], vote, b"")), "the state")


class TestAServerThatMixesTheRoundsOfABlock:
    def test_gets_no_shares_of_the_second_round_under_the_first_ones_list(self, world, prepared):
        """Both lists name the same survivors; the signatures are of the first round."""
        first = agreed_in(world, prepared, 0)
        second = agreed_in(world, prepared, 1)
        assert first.masked.survivors == second.masked.survivors
        lie = replace(second.request_for(ME), votes=first.votes)
        with pytest.raises(SignatureError, match="vote of m00"):
            reveal(world, lie)

    def test_gets_no_shares_of_a_round_whose_list_was_not_signed(self, world, prepared) -> None:
        first = agreed_in(world, prepared, 0)
        world.turn(1)
        with pytest.raises(ConflictError, match="another list of survivors"):
            reveal(world, first.request_for(ME))

    def test_gets_one_list_signed_in_each_round(self, world, prepared) -> None:
        agreed_in(world, prepared, 0)
        agreed_in(world, prepared, 1)
        other = names_content(survivors=world.names[:4]).to_bytes()
        for at in (0, 1):
            with pytest.raises(ConflictError, match="asked for again in other words"):
                world.states[ME].answered("survivors", other, at)

    def test_gets_quite_another_masked_update_for_a_request_that_it_replays(self, world, prepared):
        """The same update in two rounds: neither numbers nor their differences tell anything."""
        values = {name: np.zeros(SIZE, np.float32) for name in world.names}
        request = names_content(sharers=world.names).to_bytes()
        seen = []
        for at in (0, 1):
            world.turn(at)
            answers = world.mask(prepared.dealt(at).sharers, world.names, values)
            seen.append(answers[ME].arrays["masked"]["values"])
            with pytest.raises(ConflictError, match="not made twice"):
                world.members[ME].begin_masking(world.states[ME], request)
        assert not np.any(seen[0] == seen[1])
        assert len(set((seen[0] - seen[1]).tolist())) == SIZE

    def test_cannot_have_the_shares_of_one_round_opened_in_another(self, world, prepared) -> None:
        first = agreed_in(world, prepared, 0)
        foreign = first.request_for(ME).sealed
        agreed = agreed_in(world, prepared, 1)
        answer = reveal(world, replace(agreed.request_for(ME), sealed=foreign))
        assert answer.arrays["reveal"]["given"].tolist() == [1, 0, 0, 0, 0]  # its own share alone

    def test_that_swaps_the_deals_of_two_rounds_finds_that_no_share_is_right(self, world) -> None:
        """Of one dealer; the others' commitments still fit, and this one's name is told."""
        roster = world.roster(world.advertise())
        answers = world.share(roster, world.names)
        answers[OTHER] = swapped(answers[OTHER])
        prepared = collector.prepare(roster, answers)[0]
        agreed = agreed_in(world, prepared, 0)
        with pytest.raises(QuorumNotMetError, match="right shares of m01 came"):
            collector.unmask(agreed, world.reveal(agreed, world.names))
        whole = agreed_in(world, prepared, 2)
        total, _ = collector.unmask(whole, world.reveal(whole, world.names))
        assert np.array_equal(total, exact_sum(world.setting, values_of(world, 2), world.names))

    @pytest.mark.parametrize("stage", ["keys", "shares"])
    def test_gets_neither_keys_nor_shares_in_a_later_round(self, world, stage: str) -> None:
        roster = world.roster(world.advertise())
        world.turn(1)
        ask = {"keys": lambda: world.advertise([ME]), "shares": lambda: world.share(roster, [ME])}
        with pytest.raises(ConflictError, match="they are not given twice"):
            ask[stage]()

    def test_cannot_pass_keys_of_another_block_off(self, world) -> None:
        """Of a block that begins later, of a shorter one, of another run or plan."""
        roster = world.roster(world.advertise())
        later = {"round_number": 4}
        for changes in (later, {"run": RunId("run-2")}, {"plan_digest": Sha256("b" * 64)}):
            old = SecureWorld(members=5, where=setting(**{"rounds": ROUNDS, **changes}))
            replayed = Keys.parse(OTHER, old.advertise()[OTHER], ROUNDS)
            members = tuple(replayed if one.merchant == OTHER else one for one in roster.members)
            with pytest.raises(SignatureError, match="for this round"):
                world.share(replace(roster, members=members), [ME])
        shorter = SecureWorld(members=5, where=setting(rounds=2)).advertise()[OTHER]
        with pytest.raises(InvalidInputError, match="m01 has not 32 bytes"):
            Keys.parse(OTHER, shorter, ROUNDS)

    def test_cannot_give_one_round_two_members_the_same_key(self, world, prepared) -> None:
        keys = prepared.roster.keys_of(OTHER)
        mine = prepared.roster.keys_of(ME).masking_at(0)
        copied = replace(keys, masking=keys.masking[:64] + mine)
        members = tuple(copied if one.merchant == OTHER else one for one in prepared.roster.members)
        with pytest.raises(ConflictError, match="the same"):
            Roster.of(world.setting, members)


def swapped(content: Content) -> Content:
    """A dealer's answer in which the deals of the first two rounds have changed places."""
    deal = dict(content.arrays["deal"])
    for kind in ("sealed", "commitments"):
        deal[f"{kind}-0"], deal[f"{kind}-1"] = deal[f"{kind}-1"], deal[f"{kind}-0"]
    return Content(arrays={"deal": deal}, configs=content.configs)


class TestADishonestDealer:
    def test_whose_shares_of_one_round_do_not_fit_stops_that_round_alone_by_name(
        self, world
    ) -> None:
        """It deals the seeds' shares of the second round for another seed than it promised."""
        roster = world.roster(world.advertise())
        answers = world.share(roster, world.names)
        seeds = answers[LAST].configs["commitment"]["seed"]
        assert isinstance(seeds, bytes)
        wrong = seeds[:32] + bytes(32) + seeds[64:]
        answers[LAST] = replace(answers[LAST], configs={"commitment": {"seed": wrong}})
        prepared, rejected = collector.prepare(roster, answers)
        assert rejected == {}
        for at in range(ROUNDS):
            agreed = agreed_in(world, prepared, at)
            replies = world.reveal(agreed, world.names)
            if at == 1:
                with pytest.raises(QuorumNotMetError, match="m04 dealt shares that do not fit"):
                    collector.unmask(agreed, replies)
            else:
                total, _ = collector.unmask(agreed, replies)
                expected = exact_sum(world.setting, values_of(world, at), world.names)
                assert np.array_equal(total, expected)

    def test_who_deals_for_fewer_rounds_is_left_out_of_the_block(self, world) -> None:
        roster = world.roster(world.advertise())
        answers = world.share(roster, world.names)
        deal = {k: v for k, v in answers[LAST].arrays["deal"].items() if not k.endswith("-2")}
        answers[LAST] = replace(answers[LAST], arrays={"deal": deal})
        prepared, rejected = collector.prepare(roster, answers)
        assert list(rejected) == [LAST]
        assert prepared.dealt(0).sharers == tuple(world.names[:4])

    def test_one_key_of_small_order_among_a_blocks_is_found_at_once(self, world) -> None:
        answers = world.advertise()
        own = Keys.parse(OTHER, answers[OTHER], ROUNDS)
        bad = replace(own, masking=own.masking[:64] + bytes(32))
        signed = Keys.signed(
            world.setting,
            OTHER,
            bad.public,
            sign=sign_with(credentials(OTHER)),
            certificate=own.certificate,
        )
        answers[OTHER] = signed.to_content()
        _, rejected = collector.collect_keys(world.setting, answers, world.trust)
        assert rejected == {
            OTHER: "the masking key of m01 is of small order: nobody can share a secret with it"
        }


class TestOneRoundAtATime:
    def test_has_the_messages_that_it_always_had(self) -> None:
        """Field by field: clients and servers of wire version 1 read them."""
        world = SecureWorld(members=3)
        keys = world.advertise()
        roster = world.roster(keys)
        (record,) = keys[ME].configs.values()
        assert {name: len(value) for name, value in record.items() if name != "certificate"} == {
            "sealing": 32,
            "masking": 32,
            "voice": 32,
            "signature": len(record["signature"]),
        }
        assert roster.round_digest == roster.digest
        assert world.setting.context == b'["run-1",1,"' + b"a" * 64 + b'"]'
        deal = world.share(roster, world.names)[ME]
        assert {name: array.shape for name, array in deal.arrays["deal"].items()} == {
            "sealed": (3, 160),
            "commitments": (3, 64),
        }
        assert len(deal.configs["commitment"]["seed"]) == 32

    def test_a_block_is_named_by_its_first_round_and_its_length(self) -> None:
        where = setting(round_number=5, at=1, rounds=3)
        assert where.context == b'["run-1",4,"' + b"a" * 64 + b'",3]'


class TestAPlansBlocks:
    def test_follow_each_other_and_the_last_one_is_as_long_as_the_plan(self) -> None:
        """Seven rounds in blocks of three: 1-3, 4-6, 7."""
        plan = toy_plan(rounds=7, quorum=3, secure_aggregation={"prepared_rounds": 3})
        where = [Setting.of(plan, RunId("run-1"), number) for number in range(1, 8)]
        assert [one.first_round for one in where] == [1, 1, 1, 4, 4, 4, 7]
        assert [one.rounds for one in where] == [3, 3, 3, 3, 3, 3, 1]
        assert [one.is_last for one in where] == [False, False, True] * 2 + [True]

    def test_a_plan_without_blocks_keeps_its_digest(self) -> None:
        plain = toy_plan(quorum=3, secure_aggregation={})
        assert toy_plan(quorum=3, secure_aggregation={"prepared_rounds": 1}).digest == plain.digest
        blocks = toy_plan(quorum=3, secure_aggregation={"prepared_rounds": 2})
        assert blocks.digest != plain.digest

    @pytest.mark.parametrize("rounds", [0, 257])
    def test_have_between_1_and_256_rounds(self, rounds: int) -> None:
        with pytest.raises(InvalidInputError, match="prepared_rounds"):
            toy_plan(quorum=3, cohort=3, secure_aggregation={"prepared_rounds": rounds})

    def test_a_plan_whose_members_would_deal_too_much_is_refused(self) -> None:
        """1000 members without a cohort: 16 rounds are the most; 64 members: 256."""
        toy_plan(quorum=3, secure_aggregation={"prepared_rounds": 16})
        toy_plan(quorum=3, cohort=64, secure_aggregation={"prepared_rounds": 256})
        with pytest.raises(InvalidInputError, match="lower prepared_rounds"):
            toy_plan(quorum=3, secure_aggregation={"prepared_rounds": 17})


def test_deals_are_read_by_round() -> None:
    world = SecureWorld(members=4, where=setting(rounds=2))
    content = world.share(world.roster(world.advertise()), world.names)[ME]
    deals = [Deal.parse(content, 4, 2, at) for at in (0, 1)]
    assert not np.array_equal(deals[0].commitments, deals[1].commitments)
    assert Deal.content_of(deals).to_bytes() == content.to_bytes()
