"""The site's side of secure rounds: what lies on its disk, and what it lets out."""

import datetime as dt
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hansa.client.node.secure import RoundName, SecureRounds
from hansa.client.site import Site, SiteSettings
from hansa.core.content import Content
from hansa.core.credentials import write_credentials
from hansa.core.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    QuorumNotMetError,
    UnauthorisedError,
    UpdateRejectedError,
)
from hansa.core.identity import Identity, Role
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import RunPlan
from hansa.core.secure.messages import names_content
from hansa.core.secure.protocol import Setting
from hansa.core.secure.roster import Keys, Roster
from tests.fakes.entropy import SeededEntropy
from tests.fakes.hostile_certificates import HOSTILE
from tests.fakes.secure_round import (
    BEGIN,
    NOW,
    SecureWorld,
    authority,
    credentials,
    sign_with,
)
from tests.fakes.toy_federation import toy_plan

FIRST = RoundName(run=RunId("run-1"), number=1)
ME = MerchantId("m00")
BAD = MerchantId("m01")
MODEL = {"weights": np.zeros(3, np.float32)}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def plan() -> RunPlan:
    return toy_plan(quorum=3, secure_aggregation={}, max_update_norm=10.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.write(
        SiteSettings(
            merchant=ME, server_address="localhost:1", plan_public_key="0" * 64, base_models={}
        )
    )
    write_credentials(site.identity, "merchant", credentials(ME))
    (site.identity / "authority.pem").write_bytes(authority().certificate_pem)
    return site


@pytest.fixture
def rounds(site: Site, clock: Clock) -> SecureRounds:
    return SecureRounds(site, SeededEntropy(1), clock)


def files(site: Site) -> list[Path]:
    return sorted((site.path / "secure").glob("*"))


def request_to_train(rounds: SecureRounds, plan: RunPlan, model=None) -> bytes:
    """The request of the third stage, after this site went through the first two."""
    others = SecureWorld(members=4, seed=3, where=Setting.of(plan, FIRST.run, FIRST.number))
    answers = others.advertise(others.names[1:])
    answers[ME] = Content.from_bytes(rounds.answer("keys", plan, FIRST, BEGIN))
    roster: Roster = others.roster(answers)
    rounds.answer("shares", plan, FIRST, roster.to_content().to_bytes())
    content = names_content(sharers=others.names)
    configs = {**content.configs, "config": {"server-round": 1}}
    return Content(arrays={"arrays": model or MODEL}, configs=configs).to_bytes()


def update(values: list[float], dtype=np.float32) -> bytes:
    arrays = {"arrays": {"weights": np.array(values, dtype)}}
    return Content(arrays=arrays, metrics={"metrics": {"num-examples": 1}}).to_bytes()


def test_the_secrets_lie_in_one_file_that_only_the_owner_reads(rounds, plan, site) -> None:
    rounds.answer("keys", plan, FIRST, BEGIN)
    (path,) = files(site)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_client_that_was_killed_answers_with_the_same_bytes(rounds, plan, site, clock) -> None:
    """Its randomness begins anew; what it has answered does not."""
    first = rounds.answer("keys", plan, FIRST, BEGIN)
    again = SecureRounds(site, SeededEntropy(2), clock)
    assert again.answer("keys", plan, FIRST, BEGIN) == first


def test_another_request_for_an_answered_stage_gets_nothing(rounds, plan) -> None:
    rounds.answer("keys", plan, FIRST, BEGIN)
    with pytest.raises(ConflictError, match="in other words"):
        rounds.answer("keys", plan, FIRST, names_content(other=[]).to_bytes())


@pytest.mark.parametrize("stage", ["shares", "survivors", "unmask"])
def test_a_stage_of_an_unknown_round_is_refused(rounds, plan, stage) -> None:
    with pytest.raises(NotFoundError, match="secrets of round 1 are not here"):
        rounds.answer(stage, plan, FIRST, BEGIN)


def test_training_in_an_unknown_round_is_refused(rounds, plan) -> None:
    with pytest.raises(NotFoundError):
        rounds.begin(plan, FIRST, BEGIN)


def test_a_plan_without_secure_aggregation_is_refused(rounds) -> None:
    with pytest.raises(InvalidInputError, match="does not ask for secure"):
        rounds.answer("keys", toy_plan(), FIRST, BEGIN)


def test_a_request_to_train_without_sharers_is_refused_before_anything_is_spent(
    rounds, plan
) -> None:
    """The server cannot have a plain update by leaving the protocol's record out."""
    request_to_train(rounds, plan)
    plain = Content(arrays={"arrays": MODEL}).to_bytes()
    with pytest.raises(InvalidInputError):
        rounds.begin(plan, FIRST, plain)
    few = names_content(sharers=["m00", "m01"]).to_bytes()
    with pytest.raises(QuorumNotMetError):
        rounds.begin(plan, FIRST, few)


def test_the_application_does_not_see_the_protocol(rounds, plan) -> None:
    masking = rounds.begin(plan, FIRST, request_to_train(rounds, plan))
    task = Content.from_bytes(masking.task())
    assert task.configs == {"config": {"server-round": 1}}
    assert list(task.arrays) == ["arrays"]


def test_the_size_of_the_masked_values_is_known_before_anything_is_spent(rounds, plan) -> None:
    masking = rounds.begin(plan, FIRST, request_to_train(rounds, plan))
    size = masking.size_bytes
    values = Content.from_bytes(masking.mask(update([1, 2, 3]))).arrays["masked"]["values"]
    assert size == values.nbytes


def test_an_update_leaves_as_masked_integers_once(rounds, plan) -> None:
    request = request_to_train(rounds, plan)
    masked = Content.from_bytes(rounds.begin(plan, FIRST, request).mask(update([1, 2, 3])))
    assert (list(masked.arrays), masked.metrics, masked.configs) == (["masked"], {}, {})
    assert masked.arrays["masked"]["values"].dtype == np.uint64
    with pytest.raises(ConflictError, match="not made twice"):
        rounds.begin(plan, FIRST, request)


@pytest.mark.parametrize(
    "reply",
    [
        update([np.nan, 0, 0]),
        update([np.inf, 0, 0]),
        update([0, 0]),
        update([0, 0, 0], np.float64),
        update([11, 0, 0]),
        Content().to_bytes(),
    ],
    ids=["nan", "inf", "shape", "type", "norm", "empty"],
)
def test_an_update_that_breaks_the_plan_is_kept_back_here(rounds, plan, reply) -> None:
    """The server cannot check it any more."""
    masking = rounds.begin(plan, FIRST, request_to_train(rounds, plan))
    with pytest.raises(UpdateRejectedError):
        masking.mask(reply)


def test_a_model_that_cannot_be_summed_is_refused_before_anything_is_spent(rounds, plan) -> None:
    model = {"weights": np.zeros(3, np.int64)}
    request = request_to_train(rounds, plan, model)
    with pytest.raises(InvalidInputError, match="floating-point"):
        rounds.begin(plan, FIRST, request)


def test_a_roster_is_checked_against_the_pinned_authority_and_the_clock(
    rounds, plan, clock
) -> None:
    clock.now = NOW + dt.timedelta(days=3)
    with pytest.raises(Exception, match="not valid now"):
        request_to_train(rounds, plan)


def roster_of_a_liar(rounds: SecureRounds, plan: RunPlan, change) -> bytes:
    """A roster in which the operator left a bad member."""
    others = SecureWorld(members=4, seed=3, where=Setting.of(plan, FIRST.run, FIRST.number))
    answers = others.advertise(others.names[1:])
    answers[ME] = Content.from_bytes(rounds.answer("keys", plan, FIRST, BEGIN))
    keys = {name: Keys.parse(name, content) for name, content in answers.items()}
    keys[BAD] = change(others.setting, keys[BAD])
    return Roster.of(others.setting, list(keys.values())).to_content().to_bytes()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_certificate_in_a_roster_is_a_refusal_and_ends_nothing(
    rounds, plan, kind
) -> None:
    """Also where the operator signed it; the node refuses a task for such errors, and goes on."""
    der = HOSTILE[kind](Identity(role=Role.MERCHANT, name=BAD), credentials(BAD).key, authority())
    roster = roster_of_a_liar(rounds, plan, lambda _, keys: replace(keys, certificate=der))
    with pytest.raises(UnauthorisedError, match=r"^m01"):
        rounds.answer("shares", plan, FIRST, roster)


def test_a_key_of_small_order_in_a_roster_is_refused_by_name(rounds, plan) -> None:
    def change(where: Setting, keys: Keys) -> Keys:
        public = {**keys.public, "masking": bytes(32)}
        sign = sign_with(credentials(BAD))
        return Keys.signed(where, BAD, public, sign=sign, certificate=keys.certificate)

    with pytest.raises(InvalidInputError, match="masking key of m01 is of small order"):
        rounds.answer("shares", plan, FIRST, roster_of_a_liar(rounds, plan, change))


def test_sharers_that_are_no_names_are_a_refusal_and_end_nothing(rounds, plan) -> None:
    request_to_train(rounds, plan)
    with pytest.raises(InvalidInputError, match="not in the roster"):
        rounds.begin(
            plan, FIRST, Content(configs={"secure": {"sharers": ["m00", "m01", 7]}}).to_bytes()
        )


def test_a_later_round_of_the_run_forgets_the_earlier_ones(rounds, plan, site) -> None:
    for number in (1, 2, 3):
        rounds.answer("keys", plan, RoundName(run=RunId("run-1"), number=number), BEGIN)
    other = RoundName(run=RunId("run-2"), number=1)
    rounds.answer("keys", plan, other, BEGIN)
    assert len(files(site)) == 2
    rounds.forget(toy_plan(quorum=3, secure_aggregation={}, rounds=3), other)
    assert len(files(site)) == 1


def test_what_an_abandoned_run_left_is_forgotten_after_a_week(rounds, plan, site, clock) -> None:
    rounds.answer("keys", plan, FIRST, BEGIN)
    (old,) = files(site)
    past = (NOW - dt.timedelta(days=8)).timestamp()
    os.utime(old, (past, past))
    rounds.answer("keys", plan, RoundName(run=RunId("run-2"), number=1), BEGIN)
    assert old not in files(site)
    assert len(files(site)) == 1
