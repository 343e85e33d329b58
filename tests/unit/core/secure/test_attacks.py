"""Each promise of secure aggregation against somebody who breaks the rules."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hansa.core.content import Content
from hansa.core.errors import (
    ConflictError,
    HansaError,
    InvalidInputError,
    QuorumNotMetError,
    SignatureError,
    UnauthorisedError,
)
from hansa.core.identity import Credentials, Identity, Role, issue, make_authority, make_key
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.secure import collector
from hansa.core.secure.collector import Agreed
from hansa.core.secure.fixed_point import FixedPoint
from hansa.core.secure.masks import private_key
from hansa.core.secure.messages import UnmaskRequest, names_content
from hansa.core.secure.roster import Keys, Roster, Trust
from tests.fakes.secure_round import (
    BEGIN,
    DAY,
    NOW,
    SecureWorld,
    authority,
    certificate_der,
    credentials,
    exact_sum,
    random_values,
    setting,
    sign_with,
)

SIZE = 20
ME, OTHER, THIRD = MerchantId("m00"), MerchantId("m01"), MerchantId("m02")


@pytest.fixture
def world() -> SecureWorld:
    return SecureWorld(members=5)


@pytest.fixture
def values(world: SecureWorld):
    return random_values(world.names, SIZE)


def share_with(world: SecureWorld, roster: Roster, trust: Trust | None = None) -> None:
    world.members[ME].share(
        world.states[ME],
        roster.to_content().to_bytes(),
        trust=trust or world.trust,
        entropy=world.entropies[ME],
    )


def with_keys(roster: Roster, name: MerchantId, **changes: bytes) -> Roster:
    members = tuple(
        replace(keys, **changes) if keys.merchant == name else keys for keys in roster.members
    )
    return replace(roster, members=members)


def reveal(world: SecureWorld, request: UnmaskRequest) -> Content:
    state = world.members[ME].reveal(world.states[ME], request.to_content().to_bytes())
    return Content.from_bytes(state.reply("unmask"))


class TestAServerThatForgesTheRoster:
    def test_keys_put_in_a_members_place_are_refused(self, world: SecureWorld) -> None:
        """The operator's own key under a member's name: then it could read that member's shares."""
        roster = world.roster(world.advertise())
        for field in ("sealing", "masking", "voice"):
            with pytest.raises(SignatureError, match="m01 are not signed by it"):
                share_with(world, with_keys(roster, OTHER, **{field: b"\x09" * 32}))

    def test_a_forged_signature_is_refused(self, world: SecureWorld) -> None:
        roster = world.roster(world.advertise())
        mine = roster.keys_of(ME).signature
        for signature in (b"", b"\x30\x06\x02\x01\x01\x02\x01\x01", mine):
            with pytest.raises(SignatureError):
                share_with(world, with_keys(roster, OTHER, signature=signature))

    @pytest.mark.parametrize(
        "changes",
        [{"run": RunId("run-2")}, {"round_number": 2}, {"plan_digest": Sha256("b" * 64)}],
    )
    def test_keys_of_another_round_run_or_plan_are_refused(self, world, changes) -> None:
        old = SecureWorld(members=5, where=setting(**changes))
        replayed = Keys.parse(OTHER, old.advertise()[OTHER])
        roster = world.roster(world.advertise())
        members = tuple(replayed if keys.merchant == OTHER else keys for keys in roster.members)
        with pytest.raises(SignatureError, match="for this round"):
            share_with(world, replace(roster, members=members))

    def test_another_federations_certificate_is_refused(self, world: SecureWorld) -> None:
        foreign = make_authority("foreign", now=NOW, valid_for=DAY)
        roster = self._with_certificate(world, foreign, Identity(role=Role.MERCHANT, name="m01"))
        with pytest.raises(UnauthorisedError, match="not of this federation"):
            share_with(world, roster)

    def test_a_foreign_authority_of_the_same_name_is_refused(self, world: SecureWorld) -> None:
        impostor = make_authority("test", now=NOW, valid_for=DAY)
        roster = self._with_certificate(world, impostor, Identity(role=Role.MERCHANT, name="m01"))
        with pytest.raises(UnauthorisedError, match="not of this federation"):
            share_with(world, roster)

    @pytest.mark.parametrize(
        "identity",
        [
            Identity(role=Role.MERCHANT, name="m02"),
            Identity(role=Role.OPERATOR, name="m01"),
            Identity(role=Role.SERVER, name="m01"),
        ],
    )
    def test_a_certificate_for_somebody_else_is_refused(self, world, identity) -> None:
        with pytest.raises(UnauthorisedError, match="shows the certificate of"):
            share_with(world, self._with_certificate(world, authority(), identity))

    def test_an_expired_certificate_is_refused(self, world: SecureWorld) -> None:
        roster = world.roster(world.advertise())
        late = replace(world.trust, now=NOW + dt.timedelta(days=2))
        with pytest.raises(UnauthorisedError, match="not valid now"):
            share_with(world, roster, late)

    def test_a_certificate_that_is_none_is_refused(self, world: SecureWorld) -> None:
        roster = world.roster(world.advertise())
        with pytest.raises(UnauthorisedError, match="no usable certificate"):
            share_with(world, with_keys(roster, OTHER, certificate=b"\x30\x00"))

    def test_a_roster_that_changes_or_drops_the_members_own_keys_is_refused(self, world) -> None:
        roster = world.roster(world.advertise())
        other = SecureWorld(members=5, seed=9)
        own = Keys.parse(ME, other.advertise()[ME])
        members = (own, *roster.members[1:])
        with pytest.raises(ConflictError, match="other keys of this member"):
            share_with(world, replace(roster, members=members))
        with pytest.raises(ConflictError, match="leaves this member out"):
            share_with(world, replace(roster, members=roster.members[1:]))

    def test_a_key_or_a_name_that_comes_twice_is_refused(self, world: SecureWorld) -> None:
        roster = world.roster(world.advertise())
        copied = with_keys(roster, OTHER, masking=roster.keys_of(THIRD).masking)
        with pytest.raises(ConflictError, match="the same"):
            share_with(world, copied)
        doubled = replace(roster, members=(*roster.members, roster.members[-1]))
        with pytest.raises(ConflictError, match="twice"):
            share_with(world, doubled)

    def test_a_roster_that_is_too_small_is_refused(self, world: SecureWorld) -> None:
        """Two members, or fewer than the plan's quorum: their sum would show too much."""
        roster = world.roster(world.advertise())
        with pytest.raises(QuorumNotMetError, match="2 merchants gave keys"):
            share_with(world, replace(roster, members=roster.members[:2]))
        strict = SecureWorld(members=5, where=setting(quorum=5))
        full = strict.roster(strict.advertise())
        with pytest.raises(QuorumNotMetError):
            share_with(strict, replace(full, members=full.members[:4]))

    def test_a_roster_that_is_too_large_for_the_sums_is_refused(self) -> None:
        coding = FixedPoint(fraction_bits=24, max_abs=8.0, largest_group=4)
        world = SecureWorld(members=5, where=setting(coding=coding))
        with pytest.raises(InvalidInputError, match="more members than the plan's sums hold"):
            world.roster(world.advertise())
        column = {"merchant": ["m"] * 1001}
        columns = dict.fromkeys(("sealing", "masking", "voice", "certificate", "signature"))
        roster = {**column, **{name: [b""] * 1001 for name in columns}}
        with pytest.raises(InvalidInputError, match="at most 1000 members"):
            Roster.parse(world.setting, Content(configs={"roster": roster}))

    def test_a_second_roster_for_the_same_round_gets_nothing(self, world: SecureWorld) -> None:
        roster = world.roster(world.advertise())
        world.share(roster, world.names)
        smaller = replace(roster, members=roster.members[:4])
        with pytest.raises(ConflictError, match="asked for again in other words"):
            world.states[ME].answered("shares", smaller.to_content().to_bytes())

    def test_members_who_were_shown_different_rosters_cannot_read_each_others_shares(self) -> None:
        """m00..m03 see a roster without m04; m04 sees everybody. Its shares open for nobody."""
        world = SecureWorld(members=5)
        full = world.roster(world.advertise())
        part = replace(full, members=full.members[:4])
        world.share(part, world.names[:4])
        theirs = world.states[ME]
        deal = world.share(full, world.names[4:])[world.names[4]]
        box = deal.arrays["deal"]["sealed"][0].tobytes()
        member, key = world.members[ME], private_key(bytes.fromhex(theirs.sealing))
        assert member._opened(theirs, part, OTHER, box, key) is None
        assert member._opened(theirs, full, world.names[4], box, key) is not None

    @staticmethod
    def _with_certificate(world: SecureWorld, issuer: Credentials, identity: Identity) -> Roster:
        roster = world.roster(world.advertise())
        key = make_key()
        certificate = issue(issuer, key.public_key(), identity, now=NOW, valid_for=DAY)
        own = Credentials(key=key, certificate=certificate)
        forged = Keys.signed(
            world.setting,
            OTHER,
            roster.keys_of(OTHER).public,
            sign=sign_with(own),
            certificate=certificate_der(own),
        )
        members = tuple(forged if keys.merchant == OTHER else keys for keys in roster.members)
        return replace(roster, members=members)


class TestAServerThatWantsBothSecrets:
    def test_it_gets_shares_for_the_list_that_was_signed_and_for_no_other(
        self, world: SecureWorld, values
    ) -> None:
        """First m04 survived, then it is said to have dropped out: its key is not given."""
        agreed = world.agreed(values)
        reveal(world, agreed.request_for(ME))
        lie = replace(agreed.request_for(ME), survivors=tuple(world.names[:4]))
        with pytest.raises(ConflictError, match="another list of survivors"):
            reveal(world, lie)

    def test_a_second_list_is_not_signed(self, world: SecureWorld, values) -> None:
        world.agreed(values)
        other = names_content(survivors=world.names[:4]).to_bytes()
        with pytest.raises(ConflictError, match="asked for again in other words"):
            world.states[ME].answered("survivors", other)

    def test_of_each_member_exactly_one_secret_is_shared(self, world: SecureWorld, values) -> None:
        agreed = world.agreed(values, {"train": {"m04"}})
        world.reveal(agreed, [ME])
        answer = Content.from_bytes(world.states[ME].reply("unmask")).arrays["reveal"]
        given = [
            self._pair(world, agreed, name).index(answer["shares"][at].tobytes())
            for at, name in enumerate(world.names)
        ]
        assert given == [1, 1, 1, 1, 0]  # seeds of the survivors, the key of the drop-out
        assert answer["given"].tolist() == [1] * 5

    @staticmethod
    def _pair(world: SecureWorld, agreed: Agreed, dealer: MerchantId) -> list[bytes]:
        box = agreed.request_for(ME).sealed.get(dealer, b"")
        state, roster = world.states[ME], agreed.masked.dealt.roster
        key = private_key(bytes.fromhex(state.sealing))
        pair = world.members[ME]._opened(state, roster, dealer, box, key)
        assert pair is not None
        return list(pair)

    def test_two_lists_cannot_both_get_enough_signatures(self, world: SecureWorld, values) -> None:
        """The server tells m00..m02 that all survived, and m03, m04 that m00 did not."""
        masked = world.masked(values)
        world.vote(masked.survivors, world.names[:3])
        lie = replace(masked, survivors=tuple(world.names[1:]))
        world.vote(lie.survivors, world.names[3:])
        answers = world.replies("survivors", world.names)
        for told in (masked, lie):
            with pytest.raises(QuorumNotMetError, match="signed the list of survivors"):
                collector.collect_votes(told, answers)

    def test_without_enough_votes_no_share_is_given(self, world: SecureWorld, values) -> None:
        request = world.agreed(values).request_for(ME)
        few = replace(request, votes=dict(list(request.votes.items())[:3]))
        with pytest.raises(QuorumNotMetError, match="3 members signed"):
            reveal(world, few)

    def test_a_forged_vote_is_refused(self, world: SecureWorld, values) -> None:
        request = world.agreed(values).request_for(ME)
        for forged in (bytes(64), request.votes[THIRD]):
            with pytest.raises(SignatureError, match="vote of m01"):
                reveal(world, replace(request, votes={**request.votes, OTHER: forged}))

    def test_votes_of_somebody_outside_the_list_do_not_count(self, world, values) -> None:
        request = world.agreed(values, {"train": {"m04"}}).request_for(ME)
        votes = {**request.votes, MerchantId("m04"): request.votes[OTHER]}
        with pytest.raises(SignatureError, match="vote of m04"):
            reveal(world, replace(request, votes=votes))
        votes = {**request.votes, MerchantId("nobody"): request.votes[OTHER]}
        with pytest.raises(SignatureError, match="vote of nobody"):
            reveal(world, replace(request, votes=votes))

    def test_no_share_is_given_before_a_list_was_signed(self, world: SecureWorld, values) -> None:
        agreed = world.agreed(values)
        state = world.states[ME]
        turn = state.turn(0).model_copy(update={"survivors": ()})
        unsigned = state.model_copy(update={"turns": {0: turn}})
        with pytest.raises(ConflictError, match="another list"):
            world.members[ME].reveal(unsigned, agreed.request_for(ME).to_content().to_bytes())

    def test_no_list_is_signed_without_an_update_or_without_this_member(
        self, world: SecureWorld, values
    ) -> None:
        dealt = world.dealt()
        everybody = names_content(survivors=dealt.sharers).to_bytes()
        with pytest.raises(ConflictError, match="sent no update"):
            world.members[ME].vote(world.states[ME], everybody)
        world.mask(dealt.sharers, world.names, values)
        others = names_content(survivors=world.names[1:]).to_bytes()
        with pytest.raises(ConflictError, match="sent no update"):
            world.members[ME].vote(world.states[ME], others)

    def test_survivors_who_gave_no_shares_are_refused(self, world: SecureWorld, values) -> None:
        dealt = world.dealt({"shares": {"m04"}})
        world.mask(dealt.sharers, world.names[:4], values)
        everybody = names_content(survivors=world.names).to_bytes()
        with pytest.raises(InvalidInputError, match="gave no shares"):
            world.members[ME].vote(world.states[ME], everybody)


class TestAServerThatChoosesWhoIsMasked:
    @pytest.mark.parametrize(
        "sharers",
        [
            ["m00"],
            ["m00", "m01", "m02"],
            ["m00", "m00", "m01", "m02"],
            ["m01", "m00", "m02", "m03"],
            ["m00", "m01", "m02", "stranger"],
            ["m01", "m02", "m03", "m04"],
            [],
            "m00",
            None,
        ],
    )
    def test_too_few_foreign_or_repeated_sharers_are_refused(self, world, sharers) -> None:
        world.dealt()
        configs = {"secure": {"sharers": sharers}} if sharers is not None else {}
        request = Content(configs=configs).to_bytes()
        with pytest.raises(HansaError):
            world.members[ME].begin_masking(world.states[ME], request)

    def test_an_update_is_masked_once(self, world: SecureWorld, values) -> None:
        """Two updates under the same masks would show their difference."""
        dealt = world.dealt()
        world.mask(dealt.sharers, world.names, values)
        for names in (dealt.sharers, dealt.sharers[:4]):
            with pytest.raises(ConflictError, match="not made twice"):
                world.members[ME].begin_masking(
                    world.states[ME], names_content(sharers=names).to_bytes()
                )

    def test_no_stage_comes_before_the_roster(self, world: SecureWorld) -> None:
        world.advertise()
        state, member = world.states[ME], world.members[ME]
        request = names_content(sharers=world.names, survivors=world.names).to_bytes()
        for stage in (member.begin_masking, member.vote, member.reveal):
            with pytest.raises(ConflictError, match="before the roster"):
                stage(state, request)


Break = Callable[[Content], Content]


def with_array(record: str, name: str, change) -> Break:
    def changed(content: Content) -> Content:
        arrays = {**content.arrays[record], name: change(content.arrays[record][name])}
        return replace(content, arrays={record: arrays})

    return changed


class TestAMemberThatSendsRubbish:
    @pytest.mark.parametrize(
        "change",
        [
            lambda _: Content(),
            lambda content: replace(content, metrics={"m": {"x": 1}}),
            lambda content: Content(configs={"keys": {**content.configs["keys"], "more": b""}}),
            lambda content: Content(configs={"keys": {**content.configs["keys"], "voice": b"x"}}),
            lambda content: Content(configs={"keys": {**content.configs["keys"], "voice": "x"}}),
            lambda content: Content(
                configs={"keys": {**content.configs["keys"], "certificate": bytes(5000)}}
            ),
            lambda content: Content(
                configs={"keys": {**content.configs["keys"], "signature": bytes(72)}}
            ),
        ],
    )
    def test_broken_keys_are_left_out_by_name(self, world: SecureWorld, change: Break) -> None:
        answers = world.advertise()
        answers[OTHER] = change(answers[OTHER])
        roster, rejected = collector.collect_keys(world.setting, answers, world.trust)
        assert list(rejected) == [OTHER]
        assert OTHER not in roster.positions

    def test_whoever_copies_a_key_is_left_out_together_with_its_holder(self, world) -> None:
        """The server cannot know who was first; a copier cannot see a key before the roster."""
        answers = world.advertise()
        theirs = Keys.parse(THIRD, answers[THIRD])
        own = Keys.parse(OTHER, answers[OTHER])
        copied = Keys.signed(
            world.setting,
            OTHER,
            {**own.public, "masking": theirs.masking},
            sign=sign_with(credentials(OTHER)),
            certificate=own.certificate,
        )
        answers[OTHER] = copied.to_content()
        roster, rejected = collector.collect_keys(world.setting, answers, world.trust)
        assert sorted(rejected) == [OTHER, THIRD]
        assert len(roster.members) == 3

    @pytest.mark.parametrize(
        "change",
        [
            lambda _: Content(),
            with_array("deal", "sealed", lambda array: array[:-1]),
            with_array("deal", "sealed", lambda array: array[:, :-1]),
            with_array("deal", "sealed", lambda array: array.astype(np.uint16)),
            with_array("deal", "commitments", lambda array: array[:, :5]),
            lambda content: replace(content, configs={"commitment": {"seed": b"short"}}),
        ],
    )
    def test_a_broken_deal_is_left_out_by_name(self, world: SecureWorld, change: Break) -> None:
        roster = world.roster(world.advertise())
        answers = world.share(roster, world.names)
        answers[OTHER] = change(answers[OTHER])
        dealt, rejected = collector.collect_shares(roster, answers)
        assert list(rejected) == [OTHER]
        assert OTHER not in dealt.sharers

    @pytest.mark.parametrize(
        "change",
        [
            lambda _: Content(),
            with_array("masked", "values", lambda array: array[:-1]),
            with_array("masked", "values", lambda array: array.reshape(4, 5)),
            with_array("masked", "values", lambda array: array.astype(np.float64)),
            with_array("masked", "values", lambda array: array.astype(np.uint32)),
            lambda content: replace(content, metrics={"metrics": {"num-examples": 1000}}),
            lambda content: replace(content, configs={"note": {"x": 1}}),
        ],
    )
    def test_a_broken_update_is_left_out_and_the_sum_is_the_others(
        self, world: SecureWorld, values, change: Break
    ) -> None:
        dealt = world.dealt()
        answers = world.mask(dealt.sharers, world.names, values)
        answers[OTHER] = change(answers[OTHER])
        masked, rejected = collector.collect_masked(dealt, answers, SIZE)
        assert list(rejected) == [OTHER]
        honest = [name for name in world.names if name != OTHER]
        agreed, _ = collector.collect_votes(masked, world.vote(masked.survivors, honest))
        total, _ = collector.unmask(agreed, world.reveal(agreed, honest))
        assert np.array_equal(total, exact_sum(world.setting, values, honest))

    def test_wrong_shares_of_one_member_are_seen_and_the_sum_stays_exact(
        self, world: SecureWorld, values
    ) -> None:
        agreed = world.agreed(values, {"train": {"m04"}})
        answers = world.reveal(agreed, world.names[:4])
        break_shares = with_array("reveal", "shares", lambda array: array ^ np.uint8(1))
        with pytest.raises(QuorumNotMetError, match="right shares"):
            collector.unmask(agreed, {**answers, OTHER: break_shares(answers[OTHER])})
        world = SecureWorld(members=6)
        values = random_values(world.names, SIZE)
        agreed = world.agreed(values)
        answers = world.reveal(agreed, world.names)
        answers[OTHER] = break_shares(answers[OTHER])
        total, _ = collector.unmask(agreed, answers)
        assert np.array_equal(total, exact_sum(world.setting, values, world.names))

    def test_a_dealer_whose_shares_do_not_fit_is_named_and_nothing_is_revealed(
        self, world: SecureWorld, values
    ) -> None:
        """It commits to another seed than it shares: the sum cannot be unmasked, never a wrong
        one given out."""
        roster = world.roster(world.advertise())
        deals = world.share(roster, world.names)
        deals[OTHER] = replace(deals[OTHER], configs={"commitment": {"seed": bytes(32)}})
        dealt, _ = collector.collect_shares(roster, deals)
        answers = world.mask(dealt.sharers, world.names, values)
        masked, _ = collector.collect_masked(dealt, answers, SIZE)
        agreed, _ = collector.collect_votes(masked, world.vote(masked.survivors, world.names))
        with pytest.raises(QuorumNotMetError, match="m01 dealt shares that do not fit"):
            collector.unmask(agreed, world.reveal(agreed, world.names))

    def test_a_broken_reveal_or_vote_is_left_out(self, world: SecureWorld, values) -> None:
        masked = world.masked(values)
        votes = world.vote(masked.survivors, world.names)
        votes[OTHER] = Content(configs={"vote": {"signature": bytes(64)}})
        agreed, rejected = collector.collect_votes(masked, votes)
        assert list(rejected) == [OTHER]
        answers = world.reveal(agreed, world.names)
        answers[OTHER] = Content()
        total, rejected = collector.unmask(agreed, answers)
        assert list(rejected) == [OTHER]
        assert np.array_equal(total, exact_sum(world.setting, values, world.names))

    def test_strangers_answers_are_ignored(self, world: SecureWorld, values) -> None:
        dealt = world.dealt()
        answers = world.mask(dealt.sharers, world.names, values)
        answers[MerchantId("stranger")] = answers[OTHER]
        masked, rejected = collector.collect_masked(dealt, answers, SIZE)
        assert masked.survivors == tuple(world.names)
        assert rejected == {}


class TestTamperedCiphertexts:
    def test_a_changed_or_swapped_box_gives_no_share_and_the_others_suffice(self, values) -> None:
        world = SecureWorld(members=5)
        agreed = world.agreed(values)
        request = agreed.request_for(ME)
        changed = bytearray(request.sealed[OTHER])
        changed[40] ^= 1
        swapped = {**request.sealed, OTHER: bytes(changed), THIRD: request.sealed[OTHER]}
        given = reveal(world, replace(request, sealed=swapped)).arrays["reveal"]["given"]
        assert given.tolist() == [1, 0, 0, 1, 1]
        answers = {
            **world.reveal(agreed, world.names[1:]),
            ME: reveal(world, replace(request, sealed=swapped)),
        }
        total, _ = collector.unmask(agreed, answers)
        assert np.array_equal(total, exact_sum(world.setting, values, world.names))

    def test_a_box_for_another_reader_cannot_be_opened(self, world: SecureWorld, values) -> None:
        agreed = world.agreed(values)
        theirs = agreed.request_for(THIRD).sealed[OTHER]
        request = agreed.request_for(ME)
        answer = reveal(world, replace(request, sealed={**request.sealed, OTHER: theirs}))
        assert answer.arrays["reveal"]["given"].tolist() == [1, 0, 1, 1, 1]

    @pytest.mark.parametrize("length", [0, 159, 161])
    def test_a_box_of_another_length_is_refused(self, world, values, length: int) -> None:
        request = world.agreed(values).request_for(ME)
        sealed = {**request.sealed, OTHER: bytes(length)}
        with pytest.raises(InvalidInputError, match="160 bytes"):
            reveal(world, replace(request, sealed=sealed))


class TestRepetitions:
    def test_the_same_request_gets_the_same_bytes(self, world: SecureWorld) -> None:
        world.advertise()
        state = world.states[ME]
        assert state.answered("keys", BEGIN) == state.reply("keys")
        with pytest.raises(ConflictError):
            state.answered("keys", b"other")

    @pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"sealing": "00"}'])
    def test_a_damaged_state_is_refused(self, world: SecureWorld, data: bytes) -> None:
        world.advertise()
        with pytest.raises(InvalidInputError):
            type(world.states[ME]).parse(data, "the state")

    @pytest.mark.parametrize("request_bytes", [b"", b"garbage" * 100, Content().to_bytes()])
    def test_garbage_from_the_server_is_refused_at_every_stage(
        self, world: SecureWorld, values, request_bytes: bytes
    ) -> None:
        world.agreed(values)
        member, state = world.members[ME], world.states[ME]
        first = {"keys": state.answers["keys"]}
        fresh = state.model_copy(update={"answers": first, "turns": {}})
        for stage in (member.begin_masking, member.vote, member.reveal):
            with pytest.raises(HansaError):
                stage(fresh, request_bytes)
        with pytest.raises(HansaError):
            member.share(fresh, request_bytes, trust=world.trust, entropy=world.entropies[ME])
