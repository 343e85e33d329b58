"""Blocks of rounds at the site: one file, of which every round writes its secrets over."""

from collections.abc import Callable

import numpy as np
import pytest

from hansa.client.node.secure import RoundName, SecureRounds
from hansa.client.site import Site, SiteSettings
from hansa.core.content import Content
from hansa.core.credentials import write_credentials
from hansa.core.errors import ConflictError, NotFoundError
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import RunPlan
from hansa.core.secure import collector
from hansa.core.secure.collector import Prepared
from hansa.core.secure.messages import names_content
from hansa.core.secure.protocol import Setting
from hansa.core.secure.state import MemberState
from tests.fakes.entropy import SeededEntropy
from tests.fakes.secure_round import BEGIN, NOW, SecureWorld, authority, credentials
from tests.fakes.toy_federation import toy_plan

RUN = RunId("run-1")
ME = MerchantId("m00")
MODEL = {"weights": np.zeros(3, np.float32)}
UPDATE = Content(
    arrays={"arrays": {"weights": np.array([1, 2, 3], np.float32)}},
    metrics={"metrics": {"num-examples": 1}},
).to_bytes()


class Block:
    """This site among three others, in a plan of seven rounds in blocks of three."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.plan: RunPlan = toy_plan(
            quorum=3, rounds=7, secure_aggregation={"prepared_rounds": 3}, max_update_norm=10.0
        )
        self.others = SecureWorld(members=4, seed=3, where=Setting.of(self.plan, RUN, 1))
        self.prepared: Prepared
        self.restart()

    def restart(self) -> None:
        """As a client that was killed: with nothing but its files, and other randomness."""
        self.rounds = SecureRounds(self.site, SeededEntropy(1), lambda: NOW)

    def begin(self) -> None:
        """Keys and shares."""
        others = self.others.names[1:]
        answers = self.others.advertise(others)
        answers[ME] = Content.from_bytes(self.rounds.answer("keys", self.plan, self.name(1), BEGIN))
        roster = self.others.roster(answers)
        request = roster.to_content().to_bytes()
        answers = self.others.share(roster, others)
        deal = self.rounds.answer("shares", self.plan, self.name(1), request)
        self.prepared = collector.prepare(roster, {**answers, ME: Content.from_bytes(deal)})[0]

    @staticmethod
    def name(number: int) -> RoundName:
        return RoundName(run=RUN, number=number)

    @property
    def request(self) -> bytes:
        configs = names_content(sharers=self.others.names).configs
        return Content(arrays={"arrays": MODEL}, configs=configs).to_bytes()

    def mask(self, number: int) -> Content:
        masking = self.rounds.begin(self.plan, self.name(number), self.request)
        return Content.from_bytes(masking.mask(UPDATE))

    def vote(self, number: int) -> bytes:
        request = names_content(survivors=self.others.names).to_bytes()
        return self.rounds.answer("survivors", self.plan, self.name(number), request)

    def finish(self, number: int) -> np.ndarray:
        """The whole round; the sum of all four updates, of which the others' are zero."""
        self.others.turn(number - 1)
        dealt = self.prepared.dealt(number - 1)
        zeros = {name: np.zeros(3, np.float32) for name in self.others.names}
        answers = self.others.mask(self.others.names, self.others.names[1:], zeros)
        answers[ME] = self.mask(number)
        masked, _ = collector.collect_masked(dealt, answers, 3)
        votes = self.others.vote(masked.survivors, self.others.names[1:])
        votes[ME] = Content.from_bytes(self.vote(number))
        agreed, _ = collector.collect_votes(masked, votes)
        replies = self.others.reveal(agreed, self.others.names[1:])
        request = agreed.request_for(ME).to_content().to_bytes()
        mine = self.rounds.answer("unmask", self.plan, self.name(number), request)
        assert self.rounds.answer("unmask", self.plan, self.name(number), request) == mine
        self.restart()
        if number % 3:
            assert self.rounds.answer("unmask", self.plan, self.name(number), request) == mine
        self.rounds.forget(self.plan, self.name(number))
        return collector.unmask(agreed, {**replies, ME: Content.from_bytes(mine)})[0]

    @property
    def secrets(self) -> list[tuple[str, str]]:
        """Of each round, as they stand in the file."""
        (path,) = (self.site.path / "secure").glob("*")
        state = MemberState.parse(path.read_bytes(), "the state")
        return [(one.masking, one.seed) for one in state.secrets]


@pytest.fixture
def block(tmp_path) -> Block:
    site = Site(tmp_path)
    settings = SiteSettings(
        merchant=ME, server_address="localhost:1", plan_public_key="0" * 64, base_models={}
    )
    site.write(settings)
    write_credentials(site.identity, "merchant", credentials(ME))
    (site.identity / "authority.pem").write_bytes(authority().certificate_pem)
    block = Block(site)
    block.begin()
    return block


def test_every_round_of_a_block_is_summed_by_a_client_that_is_killed_after_each(block) -> None:
    for number in (1, 2, 3):
        assert block.finish(number).tolist() == [1, 2, 3]
    assert list((block.site.path / "secure").glob("*")) == []


def test_a_rounds_secrets_are_gone_from_the_disk_once_its_list_is_signed(block) -> None:
    drawn = block.secrets
    block.mask(1)
    assert block.secrets == drawn
    block.vote(1)
    (path,) = (block.site.path / "secure").glob("*")
    data = path.read_bytes()
    for secret in drawn[0]:
        assert secret.encode() not in data
    assert block.secrets[1:] == drawn[1:]


def test_the_secrets_of_a_round_that_was_missed_go_when_a_later_one_begins(block) -> None:
    block.mask(2)
    block.mask(3)
    block.restart()
    assert [masking == "0" * 64 for masking, _ in block.secrets] == [True, True, False]
    with pytest.raises(NotFoundError, match="secrets of round 1 are not here any more"):
        block.mask(1)


def test_an_update_of_a_round_is_masked_once_whatever_happens_to_the_client(block) -> None:
    block.mask(2)
    block.restart()
    with pytest.raises(ConflictError, match="not made twice"):
        block.mask(2)


def test_one_list_is_signed_in_a_round_whatever_happens_to_the_client(block) -> None:
    block.mask(2)
    vote = block.vote(2)
    block.restart()
    assert block.vote(2) == vote
    fewer = names_content(survivors=block.others.names[:3]).to_bytes()
    with pytest.raises(ConflictError, match="in other words"):
        block.rounds.answer("survivors", block.plan, block.name(2), fewer)


def test_a_line_that_a_crash_left_torn_is_taken_off_before_the_next_is_written(block) -> None:
    block.mask(1)
    (path,) = (block.site.path / "secure").glob("*")
    path.write_bytes(path.read_bytes() + b'{"answer":{"reply":"')
    block.restart()
    block.vote(1)
    block.restart()
    assert len(block.vote(1)) > 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_fails_under_a_note_lets_nothing_out(block, monkeypatch) -> None:
    block.mask(1)

    def fail(_: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("hansa.client.node.secure.os.fdatasync", fail)
        with pytest.raises(OSError, match="no space"):
            block.vote(1)
    (path,) = (block.site.path / "secure").glob("*")
    assert MemberState.parse(path.read_bytes(), "the state").turn(0).survivors == ()
    assert len(block.vote(1)) > 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda block: block.mask(2),
        lambda block: block.vote(2),
        lambda block: block.rounds.answer("unmask", block.plan, block.name(2), BEGIN),
    ],
    ids=["train", "survivors", "unmask"],
)
def test_a_site_that_lost_its_secrets_refuses_every_round_of_the_block(
    block: Block, ask: Callable[[Block], object]
) -> None:
    for path in (block.site.path / "secure").glob("*"):
        path.unlink()
    with pytest.raises(NotFoundError, match="secrets of round 2 are not here"):
        ask(block)


@pytest.mark.parametrize("stage", ["keys", "shares"])
def test_keys_and_shares_in_the_middle_of_a_block_are_refused(block, stage: str) -> None:
    """Also where the request is that of the first round."""
    with pytest.raises(ConflictError, match="not given twice"):
        block.rounds.answer(stage, block.plan, block.name(2), BEGIN)
