"""A secure round in memory: real members, real certificates, no network.

world = SecureWorld(members=5)
mean = world.run(values)                      # all five stages, nobody drops out
world.run(values, lost={"train": {"m02"}})    # m02 answers no stage from the masked update on

world = SecureWorld(members=5, where=setting(rounds=3))
prepared = world.prepared()                   # keys and shares of a block of three rounds
world.turn(1)                                 # all that follows is of the block's second round
world.run(values, dealt=prepared.dealt(1))
"""

import datetime as dt
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from hansa.core.content import Content
from hansa.core.identity import Credentials, Identity, Role, issue, make_authority, make_key
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.secure import collector
from hansa.core.secure.collector import Agreed, Dealt, Masked, Prepared
from hansa.core.secure.fixed_point import FixedPoint
from hansa.core.secure.member import Member
from hansa.core.secure.messages import names_content
from hansa.core.secure.protocol import STAGES, Setting
from hansa.core.secure.roster import Roster, Sign, Trust
from hansa.core.secure.state import MemberState
from tests.fakes.entropy import SeededEntropy

NOW = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
BEGIN = names_content(begin=[]).to_bytes()

Lost = Mapping[str, set[str]]
"""Stage -> who answers neither it nor any later one."""


def name_of(at: int) -> MerchantId:
    return MerchantId(f"m{at:02}")


@functools.cache
def authority() -> Credentials:
    return make_authority("test", now=NOW, valid_for=DAY)


@functools.cache
def credentials(name: str) -> Credentials:
    key = make_key()
    identity = Identity(role=Role.MERCHANT, name=name)
    certificate = issue(authority(), key.public_key(), identity, now=NOW, valid_for=DAY)
    return Credentials(key=key, certificate=certificate)


def certificate_der(own: Credentials) -> bytes:
    return own.certificate.public_bytes(serialization.Encoding.DER)


def sign_with(own: Credentials) -> Sign:
    return lambda message: own.key.sign(message, ec.ECDSA(SHA256()))


def setting(**changes: Any) -> Setting:
    values: dict[str, Any] = {
        "run": RunId("run-1"),
        "round_number": 1,
        "plan_digest": Sha256("a" * 64),
        "threshold_fraction": 0.67,
        "quorum": 3,
        "coding": FixedPoint(fraction_bits=24, max_abs=8.0, largest_group=1000),
    }
    return Setting(**{**values, **changes})


class SecureWorld:
    """Members and their states; each stage is a method, so that a test can stop or lie between."""

    def __init__(self, members: int = 4, seed: int = 0, where: Setting | None = None) -> None:
        self.setting = where or setting()
        self.trust = Trust(authorities=(authority().certificate,), now=NOW)
        self.names = [name_of(at) for at in range(members)]
        self.members = {name: Member(setting=self.setting, merchant=name) for name in self.names}
        self.states: dict[MerchantId, MemberState] = {}
        self.entropies = {
            name: SeededEntropy(1000 * seed + at) for at, name in enumerate(self.names)
        }

    def replies(self, stage: str, names: Sequence[MerchantId]) -> dict[MerchantId, Content]:
        at = self.setting.at
        return {name: Content.from_bytes(self.states[name].reply(stage, at)) for name in names}

    def turn(self, at: int) -> None:
        """Goes to another round of the block, counted from 0."""
        self.setting = self.setting.turn(at)
        self.members = {name: Member(setting=self.setting, merchant=name) for name in self.names}

    def prepared(self, lost: Lost | None = None) -> Prepared:
        roster = self.roster(self.advertise(self._left("keys", lost)))
        return collector.prepare(roster, self.share(roster, self._left("shares", lost)))[0]

    def advertise(self, names: Sequence[MerchantId] | None = None) -> dict[MerchantId, Content]:
        for name in names if names is not None else self.names:
            own = credentials(name)
            self.states[name] = self.members[name].advertise(
                BEGIN,
                sign=sign_with(own),
                certificate=certificate_der(own),
                entropy=self.entropies[name],
            )
        return self.replies("keys", list(self.states))

    def roster(self, answers: Mapping[MerchantId, Content]) -> Roster:
        return collector.collect_keys(self.setting, answers, self.trust)[0]

    def share(self, roster: Roster, names: Sequence[MerchantId]) -> dict[MerchantId, Content]:
        request = roster.to_content().to_bytes()
        for name in names:
            self.states[name] = self.members[name].share(
                self.states[name], request, trust=self.trust, entropy=self.entropies[name]
            )
        return self.replies("shares", names)

    def mask(
        self,
        sharers: Sequence[MerchantId],
        names: Sequence[MerchantId],
        values: Mapping[MerchantId, npt.NDArray[np.float32]],
    ) -> dict[MerchantId, Content]:
        request = names_content(sharers=sharers).to_bytes()
        answers = {}
        for name in names:
            self.states[name] = self.members[name].begin_masking(self.states[name], request)
            content = self.members[name].masked(self.states[name], values[name])
            answers[name] = Content.from_bytes(content.to_bytes())
        return answers

    def vote(
        self, survivors: Sequence[MerchantId], names: Sequence[MerchantId]
    ) -> dict[MerchantId, Content]:
        request = names_content(survivors=survivors).to_bytes()
        for name in names:
            self.states[name] = self.members[name].vote(self.states[name], request)
        return self.replies("survivors", names)

    def reveal(self, agreed: Agreed, names: Sequence[MerchantId]) -> dict[MerchantId, Content]:
        for name in names:
            request = agreed.request_for(name).to_content().to_bytes()
            self.states[name] = self.members[name].reveal(self.states[name], request)
        return self.replies("unmask", names)

    def dealt(self, lost: Lost | None = None) -> Dealt:
        return self.prepared(lost).dealt(0)

    def masked(
        self,
        values: Mapping[MerchantId, npt.NDArray[np.float32]],
        lost: Lost | None = None,
        dealt: Dealt | None = None,
    ) -> Masked:
        dealt = dealt or self.dealt(lost)
        answers = self.mask(dealt.sharers, self._left("train", lost), values)
        size = len(next(iter(values.values())))
        return collector.collect_masked(dealt, answers, size)[0]

    def agreed(
        self,
        values: Mapping[MerchantId, npt.NDArray[np.float32]],
        lost: Lost | None = None,
        dealt: Dealt | None = None,
    ) -> Agreed:
        masked = self.masked(values, lost, dealt)
        answers = self.vote(masked.survivors, self._left("survivors", lost))
        return collector.collect_votes(masked, answers)[0]

    def run(
        self,
        values: Mapping[MerchantId, npt.NDArray[np.float32]],
        lost: Lost | None = None,
        dealt: Dealt | None = None,
    ) -> npt.NDArray[np.float64]:
        """All stages, or those after the shares; the sum."""
        agreed = self.agreed(values, lost, dealt)
        return collector.unmask(agreed, self.reveal(agreed, self._left("unmask", lost)))[0]

    def _left(self, stage: str, lost: Lost | None) -> list[MerchantId]:
        before = STAGES[: STAGES.index(stage) + 1]
        gone = {name for early in before for name in (lost or {}).get(early, set())}
        return [name for name in self.names if name not in gone]


def random_values(
    names: Sequence[MerchantId], size: int, seed: int = 0
) -> dict[MerchantId, npt.NDArray[np.float32]]:
    """Updates between -1 and 1."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, size).astype(np.float32) for name in names}


def exact_sum(
    where: Setting, values: Mapping[MerchantId, npt.NDArray[np.float32]], names: Sequence[str]
) -> npt.NDArray[np.float64]:
    """The sum of the fixed-point numbers, without any mask."""
    coded = [where.coding.encode(values[MerchantId(name)]) for name in names]
    return where.coding.decode(np.sum(coded, axis=0, dtype=where.coding.dtype))
