"""Keys and certificates that are properly signed, or nearly, and made to stop everybody else."""

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest

from hansa.core.content import Content
from hansa.core.errors import InvalidInputError, QuorumNotMetError, UnauthorisedError
from hansa.core.identity import Credentials, Identity, Role, issue, make_authority
from hansa.core.ids import MerchantId
from hansa.core.secure import collector
from hansa.core.secure.messages import names_content
from hansa.core.secure.roster import Keys, Roster, Trust
from tests.fakes.hostile_certificates import HOSTILE
from tests.fakes.secure_round import (
    DAY,
    NOW,
    SecureWorld,
    authority,
    certificate_der,
    credentials,
    random_values,
    sign_with,
)

SIZE = 20
ME, BAD = MerchantId("m00"), MerchantId("m01")
IDENTITY = Identity(role=Role.MERCHANT, name=BAD)
HOUR = dt.timedelta(hours=1)

SMALL_ORDER = {  # RFC 7748, section 6.1, and https://cr.yp.to/ecdh.html: little-endian points
    "0": bytes(32),
    "1": b"\x01" + bytes(31),
    "order 8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "order 8, the other": bytes.fromhex(
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"
    ),
    "p - 1": b"\xec" + b"\xff" * 30 + b"\x7f",
    "p": b"\xed" + b"\xff" * 30 + b"\x7f",
    "p + 1": b"\xee" + b"\xff" * 30 + b"\x7f",
    "0, high bit set": bytes(31) + b"\x80",
}


@pytest.fixture
def world() -> SecureWorld:
    return SecureWorld(members=5)


def with_keys(world: SecureWorld, content: Content, **keys: bytes) -> Content:
    """The answer of ``BAD`` with other keys, under its own good signature."""
    own = Keys.parse(BAD, content)
    return Keys.signed(
        world.setting,
        BAD,
        {**own.public, **keys},
        sign=sign_with(credentials(BAD)),
        certificate=own.certificate,
    ).to_content()


def with_certificate(content: Content, der: bytes) -> Content:
    """The signature is over the keys and holds for every certificate of the same key."""
    return replace(Keys.parse(BAD, content), certificate=der).to_content()


def valid(begin: dt.datetime, end: dt.datetime) -> bytes:
    """A certificate of ``BAD`` for its present key, begun five minutes before ``begin``."""
    key = credentials(BAD).key
    made = issue(authority(), key.public_key(), IDENTITY, now=begin, valid_for=end - begin)
    return certificate_der(Credentials(key=key, certificate=made))


def roster_with(answers: dict[MerchantId, Content], world: SecureWorld) -> Roster:
    """What a server sends that leaves nobody out."""
    keys = [Keys.parse(name, content) for name, content in answers.items()]
    return Roster.of(world.setting, keys)


def share(world: SecureWorld, request: bytes) -> None:
    world.members[ME].share(
        world.states[ME], request, trust=world.trust, entropy=world.entropies[ME]
    )


class TestKeysOfSmallOrder:
    @pytest.mark.parametrize("field", ["sealing", "masking"])
    @pytest.mark.parametrize("point", SMALL_ORDER.values(), ids=SMALL_ORDER)
    def test_its_owner_is_left_out_by_name_before_anybody_else_works(
        self, world: SecureWorld, field: str, point: bytes
    ) -> None:
        """Else all others would train, spend, and fail only when they mask with it."""
        answers = world.advertise()
        answers[BAD] = with_keys(world, answers[BAD], **{field: point})
        roster, rejected = collector.collect_keys(world.setting, answers, world.trust)
        assert rejected == {
            BAD: f"the {field} key of m01 is of small order: nobody can share a secret with it"
        }
        assert list(roster.positions) == [name for name in world.names if name != BAD]

    def test_the_others_carry_the_round_to_its_end(self, world: SecureWorld) -> None:
        answers = world.advertise()
        answers[BAD] = with_keys(world, answers[BAD], masking=bytes(32))
        roster = world.roster(answers)
        honest = list(roster.positions)
        dealt, _ = collector.collect_shares(roster, world.share(roster, honest))
        values = random_values(world.names, SIZE)
        answers = world.mask(dealt.sharers, honest, values)
        assert collector.collect_masked(dealt, answers, SIZE)[0].survivors == tuple(honest)

    @pytest.mark.parametrize("field", ["sealing", "masking"])
    def test_a_member_refuses_a_roster_with_one_by_name(self, world, field: str) -> None:
        answers = world.advertise()
        answers[BAD] = with_keys(world, answers[BAD], **{field: bytes(32)})
        with pytest.raises(InvalidInputError, match=f"the {field} key of m01 is of small order"):
            share(world, roster_with(answers, world).to_content().to_bytes())


class TestHostileCertificates:
    @pytest.mark.parametrize("kind", HOSTILE)
    @pytest.mark.parametrize("is_ours", [False, True])
    def test_whoever_shows_one_is_left_out_by_name(self, world, kind: str, is_ours: bool) -> None:
        """Also where the federation's own authority had signed it."""
        issuer = authority() if is_ours else make_authority("test", now=NOW, valid_for=DAY)
        der = HOSTILE[kind](IDENTITY, credentials(BAD).key, issuer)
        answers = world.advertise()
        answers[BAD] = with_certificate(answers[BAD], der)
        roster, rejected = collector.collect_keys(world.setting, answers, world.trust)
        assert list(rejected) == [BAD]
        assert rejected[BAD].startswith(("m01 shows no usable", "m01's certificate is not of this"))
        assert len(roster.members) == 4

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_a_member_refuses_a_roster_with_one_that_the_operator_signed(self, world, kind) -> None:
        answers = world.advertise()
        der = HOSTILE[kind](IDENTITY, credentials(BAD).key, authority())
        answers[BAD] = with_certificate(answers[BAD], der)
        with pytest.raises(UnauthorisedError, match=r"^m01 shows no usable|^m01's certificate is"):
            share(world, roster_with(answers, world).to_content().to_bytes())

    def test_of_a_foreign_certificate_nothing_but_issuer_and_signature_is_read(self, world) -> None:
        """A doubled extension fails only when extensions are read: it is not even seen."""
        foreign = make_authority("foreign", now=NOW, valid_for=DAY)
        der = HOSTILE["a doubled extension"](IDENTITY, credentials(BAD).key, foreign)
        with pytest.raises(UnauthorisedError, match="not of this federation"):
            world.trust.key_of(BAD, der)


class TestCertificatesOutOfDate:
    @pytest.mark.parametrize(
        ("begin", "end", "sentence"),
        [
            (NOW - 2 * DAY, NOW - HOUR, "m01's certificate is not valid now"),
            (NOW + HOUR, NOW + DAY, "m01's certificate is not valid now"),
            (NOW, NOW + 2 * HOUR - dt.timedelta(seconds=1), "m01's certificate ends within 2:00"),
        ],
        ids=["expired", "not yet valid", "ends in the round"],
    )
    def test_its_owner_is_left_out_by_name(self, world, begin, end, sentence) -> None:
        answers = world.advertise()
        answers[BAD] = with_certificate(answers[BAD], valid(begin, end))
        trust = replace(world.trust, lasting=2 * HOUR)
        roster, rejected = collector.collect_keys(world.setting, answers, trust)
        assert list(rejected) == [BAD]
        assert rejected[BAD].startswith(sentence)
        assert len(roster.members) == 4

    def test_one_that_lasts_just_long_enough_counts(self, world: SecureWorld) -> None:
        answers = world.advertise()
        answers[BAD] = with_certificate(answers[BAD], valid(NOW, NOW + 2 * HOUR))
        trust = replace(world.trust, lasting=2 * HOUR)
        assert collector.collect_keys(world.setting, answers, trust)[1] == {}

    def test_each_is_judged_at_the_moment_of_its_answer_whenever_that_is_done(self, world) -> None:
        """A server that reads the answers again much later comes to the same roster."""
        answers = world.advertise()
        answered = {**dict.fromkeys(world.names, NOW), BAD: NOW + 2 * DAY}
        for now in (None, NOW, NOW + 9 * DAY):
            trust = replace(world.trust, now=now)
            roster, rejected = collector.collect_keys(world.setting, answers, trust, answered)
            assert list(rejected) == [BAD]
            assert len(roster.members) == 4

    def test_without_a_moment_none_counts(self, world: SecureWorld) -> None:
        """So that nobody forgets to name one."""
        trust = Trust(authorities=world.trust.authorities)
        with pytest.raises(UnauthorisedError, match="not valid now"):
            trust.key_of(ME, certificate_der(credentials(ME)))


class TestNamesFromTheServer:
    @pytest.mark.parametrize("name", ["\ud800", "m 01", "M01", "", "m" * 64, 7, ["m01"]])
    def test_a_roster_with_a_name_that_can_be_none_is_refused(self, world, name) -> None:
        """Not every string can stand in the sentence that goes back."""
        content = world.roster(world.advertise()).to_content()
        record = dict(content.configs["roster"])
        record["merchant"] = [name, *record["merchant"][1:]]
        with pytest.raises(InvalidInputError, match="names no merchants"):
            Roster.parse(world.setting, Content(configs={"roster": record}))

    @pytest.mark.parametrize("name", [["m00"], None, 7, b"m00", "\ud800"])
    def test_a_list_with_something_that_is_no_name_is_refused(self, world, name) -> None:
        world.dealt()
        roster = world.roster(world.replies("keys", world.names))
        with pytest.raises(InvalidInputError, match="not in the roster"):
            roster.subset([*world.names[1:], name], "the list")

    def test_a_vote_under_a_name_that_can_be_none_is_refused(self, world: SecureWorld) -> None:
        agreed = world.agreed(random_values(world.names, SIZE))
        request = agreed.request_for(ME)
        votes = {**request.votes, MerchantId("\ud800"): request.votes[BAD]}
        lie = replace(request, votes=votes).to_content().to_bytes()
        with pytest.raises(InvalidInputError, match="must be merchants'"):
            world.members[ME].reveal(world.states[ME], lie)


class TestMembersWhoWorkWithTheServer:
    """Five members, of whom four must answer; m04 drops out of itself."""

    @pytest.mark.parametrize(("colluders", "honest"), [(3, 1), (2, 2)])
    def test_the_sum_holds_the_threshold_less_them_in_honest_updates(
        self, world: SecureWorld, colluders: int, honest: int
    ) -> None:
        """What they take off the sum is their own: at threshold - 1 of them, one update is left."""
        values = random_values(world.names, SIZE)
        agreed = world.agreed(values, {"train": {"m04"}})
        assert agreed.masked.dealt.roster.threshold == 4
        assert len(agreed.masked.survivors) == 4
        total, _ = collector.unmask(agreed, world.reveal(agreed, world.names[:4]))
        theirs = sum(values[name] for name in world.names[4 - colluders : 4])
        left = sum(values[name] for name in world.names[:honest])
        assert np.allclose(total - theirs, left, rtol=0, atol=1e-5)

    def test_a_list_of_fewer_is_not_unmasked(self, world: SecureWorld) -> None:
        """They cannot make the list shorter than the threshold, and so single one out."""
        world.mask(world.dealt().sharers, world.names, random_values(world.names, SIZE))
        with pytest.raises(QuorumNotMetError, match="fewer than the threshold of 4"):
            world.members[ME].vote(
                world.states[ME], names_content(survivors=world.names[:3]).to_bytes()
            )
