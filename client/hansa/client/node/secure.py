"""This site's side of secure rounds: its secrets on the disk, and the masking of its updates.

The secrets of a round, or of a block of rounds, lie in one file, readable by its owner only. What a
stage adds is on the disk before its answer leaves, so that a client that was killed goes on with
the same keys and never answers a stage in two ways. A round's secrets are written over when its
list of survivors is signed, and the file is deleted when the block is over. It is read once: after
that the state is in memory, too.
"""

import datetime as dt
import os
from collections.abc import Callable, Sequence
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
from hansa.core.secure.protocol import KEYS, SHARES, SURVIVORS, TRAIN, UNMASK, Setting
from hansa.core.secure.roster import Trust
from hansa.core.secure.state import ERASED, MemberState
from hansa.core.secure.vector import difference, size_of
from hansa.core.storage import fsync_directory, write_atomically
from hansa.core.update import check_update

Clock = Callable[[], dt.datetime]

_ARRAYS = "arrays"
_KEPT_FOR = dt.timedelta(days=7)
"""Longer than any round lasts, whose stages take at most a day each; each round of a block touches
its file."""


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
        self._states: dict[Path, MemberState] = {}

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
        member = self._member(plan, name)
        if stage in (KEYS, SHARES):
            member.setting.check_begins()
        path, at = self._path(member.setting), member.setting.at
        state = None if stage == KEYS and not path.exists() else self._read(member.setting)
        if state is not None and (kept := state.answered(stage, request, at)) is not None:
            return kept
        state = self._next(stage, member, state, request)
        self._keep(stage, member.setting, state)
        return state.reply(stage, at)

    def begin(self, plan: RunPlan, name: RoundName, request: bytes) -> "Masking":
        """Checks the request to train, before anything is spent or touched.

        Raises:
            NotFoundError: the round's secrets are not here.
            HansaError: the request breaks the protocol, or the model cannot be summed.
        """
        member = self._member(plan, name)
        state = member.begin_masking(self._read(member.setting), request)
        content = Content.from_bytes(request)
        size_of(content.arrays.get(_ARRAYS, {}))
        return Masking(self, plan, member, state, content)

    def forget(self, plan: RunPlan, name: RoundName) -> None:
        """Deletes the secrets of a round that is over, once no round of its block needs them."""
        setting = Setting.of(plan, name.run, name.number)
        if setting.is_last:
            self._drop(self._path(setting))

    def note_masking(self, setting: Setting, state: MemberState) -> None:
        """Writes down that the round's one update is masked now, before it can leave."""
        self._keep(TRAIN, setting, state)

    def _keep(self, stage: str, setting: Setting, state: MemberState) -> None:
        """Makes an answer durable, for its owner's eyes; see ``MemberState`` for the last stage."""
        path = self._path(setting)
        if stage in (TRAIN, SURVIVORS):
            gone = state.unneeded(setting.at)
            self._states.pop(path, None)  # what is half written is read again
            _append(path, state.line(stage, setting.at), gone)
            state = state.without(setting.at)
        elif stage != UNMASK:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, state.to_bytes(), mode=0o600)
        self._states[path] = state
        if stage == KEYS:
            self._forget_older(setting)

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

    def _path(self, setting: Setting) -> Path:
        """One file for a block, named by its first round."""
        return self._folder / f"{_prefix(setting.run)}{setting.first_round}.json"

    def _read(self, setting: Setting) -> MemberState:
        path = self._path(setting)
        if not path.exists():
            self._states.pop(path, None)
            raise NotFoundError(
                f"the secrets of round {setting.round_number} are not here: it is over for this "
                "site, or began elsewhere"
            )
        if path not in self._states:
            data = path.read_bytes()
            state = MemberState.parse(data, str(path))
            if state.to_bytes() != data:  # a torn last line would spoil the next one
                write_atomically(path, state.to_bytes(), mode=0o600)
            self._states[path] = state
        return self._states[path]

    def _drop(self, path: Path) -> None:
        self._states.pop(path, None)
        path.unlink(missing_ok=True)

    def _forget_older(self, setting: Setting) -> None:
        """A run's earlier rounds are over when a later one begins; other runs' after a week."""
        limit = (self._clock() - _KEPT_FOR).timestamp()
        for path in self._folder.glob("*.json"):
            number = path.stem.removeprefix(_prefix(setting.run))
            earlier = number.isdigit() and int(number) < setting.first_round
            if earlier or path.stat().st_mtime < limit:
                self._drop(path)
        fsync_directory(self._folder)


class Masking:
    """One update between the check of its request and its masked bytes."""

    def __init__(
        self,
        rounds: SecureRounds,
        plan: RunPlan,
        member: Member,
        state: MemberState,
        request: Content,
    ) -> None:
        """Joins what ``SecureRounds.begin`` has checked."""
        self._rounds = rounds
        self._plan = plan
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
            self._rounds.note_masking(self._member.setting, self._state)
            return self._member.masked_integers(self._state, steps).to_bytes()
        model = self._request.arrays[_ARRAYS]
        check_update(model, arrays, max_norm=self._plan.federation.max_update_norm)
        self._rounds.note_masking(self._member.setting, self._state)
        return self._member.masked(self._state, difference(model, arrays)).to_bytes()


def _prefix(run: RunId) -> str:
    return f"{sha256_hex(run.encode())[:32]}-"


def _append(path: Path, line: bytes, gone: Sequence[str]) -> None:
    """Adds a line durably, and writes over what is gone.

    The secrets are of one length, so zeros take their place byte by byte; a crash in between leaves
    a secret whose only use is over.

    Raises:
        OSError: the disk is full or broken; the line is taken off again, since nobody knows whether
            it would be there after a crash.
    """
    held = path.read_bytes()
    try:
        with path.open("r+b") as file:
            for secret in gone:
                if (at := held.find(secret.encode())) >= 0:
                    file.seek(at)
                    file.write(ERASED.encode())
            file.seek(len(held))
            file.write(line)
            file.flush()
            os.fdatasync(file.fileno())
    except OSError:
        os.truncate(path, len(held))
        raise
