"""This site's side of secure rounds: its secrets on the disk, and the masking of its updates.

The secrets of a round lie in one file, readable by its owner only. It is written before an answer
leaves, so that a client that was killed goes on with the same keys and never answers a stage in two
ways; it is deleted when the round is over.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from hansa.client.site import Site
from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.errors import ConflictError, NotFoundError
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import RunPlan
from hansa.core.privacy.mechanism import Entropy
from hansa.core.privacy.noise_share import noised_sum
from hansa.core.secure.member import Member
from hansa.core.secure.messages import SECURE
from hansa.core.secure.protocol import KEYS, SHARES, SURVIVORS, Setting
from hansa.core.secure.roster import Trust
from hansa.core.secure.state import MemberState
from hansa.core.secure.vector import difference, size_of
from hansa.core.storage import fsync_directory, write_atomically
from hansa.core.update import check_update

Clock = Callable[[], dt.datetime]

_ARRAYS = "arrays"
_KEPT_FOR = dt.timedelta(days=7)
"""Longer than any round lasts: five stages of at most a day each."""


@dataclass(frozen=True, kw_only=True)
class RoundName:
    """Which round of which run."""

    run: RunId
    number: int


class SecureRounds:
    """The rounds that this site takes part in."""

    def __init__(self, site: Site, entropy: Entropy, clock: Clock) -> None:
        self._site = site
        self._folder = site.secure
        self._entropy = entropy
        self._clock = clock

    def answer(self, stage: str, plan: RunPlan, name: RoundName, request: bytes) -> bytes:
        """The answer to a stage that touches no data; a repetition gets the same bytes.

        Args:
            stage: ``keys``, ``shares``, ``survivors`` or ``unmask``.
            plan: signed by the operator, checked by the caller.
            name: the round.
            request: the task's content file.

        Raises:
            NotFoundError: the round's secrets are not here.
            HansaError: the request breaks the protocol; the sentence names the rule.
        """
        state = None if stage == KEYS and not self._path(name).exists() else self._read(name)
        if state is not None and (kept := state.answered(stage, request)) is not None:
            return kept
        state = self._next(stage, self._member(plan, name), state, request)
        self.keep(name, state)
        if stage == KEYS:
            self._forget_older(name)
        return state.reply(stage)

    def begin(self, plan: RunPlan, name: RoundName, request: bytes) -> "Masking":
        """Checks the request to train, before anything is spent or touched.

        Raises:
            NotFoundError: the round's secrets are not here.
            HansaError: the request breaks the protocol, or the model cannot be summed.
        """
        member = self._member(plan, name)
        state = member.begin_masking(self._read(name), request)
        content = Content.from_bytes(request)
        size_of(content.arrays.get(_ARRAYS, {}))
        return Masking(self, plan, name, member, state, content)

    def forget(self, name: RoundName) -> None:
        """Deletes the secrets of a round that is over."""
        self._path(name).unlink(missing_ok=True)

    def keep(self, name: RoundName, state: MemberState) -> None:
        """Writes the secrets down durably, for their owner's eyes."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._path(name), state.to_bytes(), mode=0o600)

    def _next(
        self, stage: str, member: Member, state: MemberState | None, request: bytes
    ) -> MemberState:
        if state is None:
            own = self._site.credentials()
            return member.advertise(
                request,
                sign=lambda message: own.key.sign(message, ec.ECDSA(SHA256())),
                certificate=own.certificate.public_bytes(Encoding.DER),
                entropy=self._entropy,
            )
        if stage == KEYS:
            raise ConflictError("the keys of this round were given before")
        if stage == SHARES:
            return member.share(state, request, trust=self._trust(), entropy=self._entropy)
        return (member.vote if stage == SURVIVORS else member.reveal)(state, request)

    def _member(self, plan: RunPlan, name: RoundName) -> Member:
        merchant = MerchantId(self._site.settings().merchant)
        return Member(setting=Setting.of(plan, name.run, name.number), merchant=merchant)

    def _trust(self) -> Trust:
        """Only certificates of the authority that was pinned at joining."""
        authorities = x509.load_pem_x509_certificates(self._site.authority_pem())
        return Trust(authorities=tuple(authorities), now=self._clock())

    def _path(self, name: RoundName) -> Path:
        return self._folder / f"{_prefix(name)}{name.number}.json"

    def _read(self, name: RoundName) -> MemberState:
        path = self._path(name)
        if not path.exists():
            raise NotFoundError(
                f"the secrets of round {name.number} are not here: it is over for this site, or "
                "began elsewhere"
            )
        return MemberState.parse(path.read_bytes(), str(path))

    def _forget_older(self, name: RoundName) -> None:
        """A run's earlier rounds are over when a later one begins; other runs' after a week."""
        limit = (self._clock() - _KEPT_FOR).timestamp()
        for path in self._folder.glob("*.json"):
            number = path.stem.removeprefix(_prefix(name))
            earlier = number.isdigit() and int(number) < name.number
            if earlier or path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)
        fsync_directory(self._folder)


class Masking:
    """One update between the check of its request and its masked bytes."""

    def __init__(
        self,
        rounds: SecureRounds,
        plan: RunPlan,
        name: RoundName,
        member: Member,
        state: MemberState,
        request: Content,
    ) -> None:
        """Joins what ``SecureRounds.begin`` has checked."""
        self._rounds = rounds
        self._plan = plan
        self._name = name
        self._member = member
        self._state = state
        self._request = request

    @property
    def size_bytes(self) -> int:
        """Of the values that ``mask`` will return."""
        count = size_of(self._request.arrays.get(_ARRAYS, {}))
        return count * self._member.setting.coding.dtype.itemsize

    def task(self) -> bytes:
        """What the application gets: the request without the protocol's own record."""
        configs = {key: value for key, value in self._request.configs.items() if key != SECURE}
        return replace(self._request, configs=configs).to_bytes()

    def mask(self, reply: bytes) -> bytes:
        """The application's update, masked; from now on this round masks nothing else.

        With distributed noise the application gives integers that hold a share of the noise, and
        only their sum is noised enough for anybody's eyes; no norm of one part is looked at.

        Raises:
            UpdateRejectedError: the update is not a finite, bounded step from the round's model.
            InvalidInputError: the application's reply is no content file, or not the plan's.
        """
        arrays = Content.from_bytes(reply).arrays.get(_ARRAYS, {})
        if self._plan.privacy.distributed_noise is not None:
            steps = noised_sum(arrays, size_of(self._request.arrays[_ARRAYS]))
            self._rounds.keep(self._name, self._state)
            return self._member.masked_integers(self._state, steps).to_bytes()
        model = self._request.arrays[_ARRAYS]
        check_update(model, arrays, max_norm=self._plan.federation.max_update_norm)
        self._rounds.keep(self._name, self._state)
        return self._member.masked(self._state, difference(model, arrays)).to_bytes()


def _prefix(name: RoundName) -> str:
    return f"{sha256_hex(name.run.encode())[:32]}-"
