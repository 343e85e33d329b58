"""Who takes part in a secure round, and with which keys: the roster that all members check.

Each member's keys are signed with the key of its certificate, over the round's context, so that
nobody can put others in their place or bring those of another round. All later keys are derived
from the roster's digest: members who were shown different rosters cannot read each other's shares.
"""

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from hansa.core.canonical import canonical_json, sha256_hex
from hansa.core.content import Content
from hansa.core.errors import (
    ConflictError,
    InvalidInputError,
    QuorumNotMetError,
    SignatureError,
    UnauthorisedError,
)
from hansa.core.identity import Identity, Role, certificate_of, identity_of
from hansa.core.ids import MerchantId, Sha256
from hansa.core.plan import LARGEST_GROUP, SMALLEST_SUM
from hansa.core.secure.masks import KEY_BYTES, can_agree
from hansa.core.secure.protocol import Setting

Sign = Callable[[bytes], bytes]
"""Signs with the member's identity: ECDSA on P-256 with SHA-256."""

_RECORD: Final = "keys"
_ROUND: Final = "hansa secure aggregation round v1"
_FIELDS: Final = ("sealing", "masking", "voice", "certificate", "signature")
_PUBLIC_KEYS: Final = ("sealing", "masking", "voice")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MAX_CERTIFICATE_BYTES: Final = 4096
_MAX_SIGNATURE_BYTES: Final = 80  # of a P-256 signature in DER


@dataclass(frozen=True, kw_only=True)
class Keys:
    """One member's public keys for one round, or for all rounds of a block."""

    merchant: MerchantId
    sealing: bytes
    """X25519: others seal its shares with it."""
    masking: bytes
    """X25519: masks with others come from it; in a block each round's, one after the other."""
    voice: bytes
    """Ed25519: signs the list of survivors."""
    certificate: bytes
    """DER; the identity that signed."""
    signature: bytes

    @staticmethod
    def signed(
        setting: Setting,
        merchant: MerchantId,
        public: Mapping[str, bytes],
        *,
        sign: Sign,
        certificate: bytes,
    ) -> "Keys":
        """Public keys (``sealing``, ``masking``, ``voice``) under the member's signature."""
        message = _message(setting, merchant, public)
        return Keys(
            merchant=merchant, certificate=certificate, signature=sign(message), **dict(public)
        )

    @staticmethod
    def parse(merchant: MerchantId, content: Content, rounds: int = 1) -> "Keys":
        """A member's answer, with masking keys for so many rounds.

        Raises:
            InvalidInputError: a field is missing, foreign, or of a wrong type or length.
        """
        record = content.configs.get(_RECORD)
        if content.arrays or content.metrics or set(content.configs) != {_RECORD} or not record:
            raise InvalidInputError("an answer with keys holds one record of keys, nothing else")
        if set(record) != set(_FIELDS):
            raise InvalidInputError(f"the keys must be {', '.join(_FIELDS)}")
        return _checked_keys(merchant, record, rounds)

    def to_content(self) -> Content:
        """The member's answer."""
        return Content(configs={_RECORD: {name: getattr(self, name) for name in _FIELDS}})

    @property
    def public(self) -> dict[str, bytes]:
        """The public keys by name; those of a block's rounds are one value."""
        return {name: getattr(self, name) for name in _PUBLIC_KEYS}

    @property
    def exchanged(self) -> list[tuple[str, bytes]]:
        """The X25519 keys, each with its name."""
        starts = range(0, len(self.masking), KEY_BYTES)
        masking = [("masking", self.masking[at : at + KEY_BYTES]) for at in starts]
        return [("sealing", self.sealing), *masking]

    @property
    def every_key(self) -> list[bytes]:
        """All public keys, each of 32 bytes."""
        return [self.voice, *(key for _, key in self.exchanged)]

    def masking_at(self, at: int) -> bytes:
        """The masking key of one round of the block, counted from 0."""
        return self.masking[at * KEY_BYTES : (at + 1) * KEY_BYTES]

    def check(self, setting: Setting, trust: "Trust") -> None:
        """Accepts only what the named merchant signed for this round.

        Raises:
            UnauthorisedError: the certificate is not the federation's, or another merchant's.
            SignatureError: the keys were changed, or are those of another round.
            InvalidInputError: a key is of small order. All others would find that out only when
                they mask with it, after they trained.
        """
        key = trust.key_of(self.merchant, self.certificate)
        message = _message(setting, self.merchant, self.public)
        try:
            key.verify(self.signature, message, ec.ECDSA(SHA256()))
        except InvalidSignature as error:
            raise SignatureError(
                f"the round's keys of {self.merchant} are not signed by it for this round"
            ) from error
        for name, public in self.exchanged:
            if not can_agree(public):
                raise InvalidInputError(
                    f"the {name} key of {self.merchant} is of small order: nobody can share a "
                    "secret with it"
                )


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Whose certificates count."""

    authorities: tuple[x509.Certificate, ...]
    """The federation's, pinned at joining."""
    now: dt.datetime | None = None
    """The moment at which certificates must be valid; None until ``at`` names it: none is."""
    lasting: dt.timedelta = dt.timedelta(0)
    """For how long after that moment they must stay valid."""

    def at(self, moment: dt.datetime | None) -> "Trust":
        """The same, judged at another moment."""
        return replace(self, now=moment)

    def key_of(self, merchant: MerchantId, der: bytes) -> ec.EllipticCurvePublicKey:
        """The public key in a merchant's certificate.

        Raises:
            UnauthorisedError: it is not a valid certificate of this merchant in this federation.
        """
        shown = self._read(merchant, der)
        if (shown.identity.role, shown.identity.name) != (Role.MERCHANT, merchant):
            raise UnauthorisedError(f"{merchant} shows the certificate of {shown.identity.uri}")
        if not isinstance(shown.key, ec.EllipticCurvePublicKey):
            raise UnauthorisedError(f"{merchant}'s certificate is not for an ECDSA key")
        self._check_dates(merchant, shown)
        return shown.key

    def _read(self, merchant: MerchantId, der: bytes) -> "_Shown":
        """What a certificate says; of one that no authority here signed, nothing more is parsed."""
        try:
            certificate = certificate_of(der)
            is_ours = any(_issued(certificate, authority) for authority in self.authorities)
            shown = _Shown.of(certificate) if is_ours else None
        except Exception as error:
            # The bytes are foreign, and what cryptography raises for odd ones (a doubled extension,
            # an unknown algorithm, a kind of name that it does not know) has no common base class.
            raise UnauthorisedError(f"{merchant} shows no usable certificate") from error
        if shown is None:
            raise UnauthorisedError(f"{merchant}'s certificate is not of this federation")
        return shown

    def _check_dates(self, merchant: MerchantId, shown: "_Shown") -> None:
        if self.now is None or not shown.begins <= self.now <= shown.ends:
            raise UnauthorisedError(f"{merchant}'s certificate is not valid now; check the clocks")
        if shown.ends < self.now + self.lasting:
            raise UnauthorisedError(
                f"{merchant}'s certificate ends within {self.lasting}, perhaps before the others "
                "look at it; renew it, or shorten the plan's deadline_s"
            )


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What counts of a certificate."""

    identity: Identity
    key: object
    begins: dt.datetime
    ends: dt.datetime

    @staticmethod
    def of(certificate: x509.Certificate) -> "_Shown":
        """Parses it; raises whatever cryptography does for bytes that it does not like."""
        return _Shown(
            identity=identity_of(certificate),
            key=certificate.public_key(),
            begins=certificate.not_valid_before_utc,
            ends=certificate.not_valid_after_utc,
        )


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The members of a round by name; the first one's position is 1.

    The rounds of a block have one roster; ``of_round`` gives it as each of them sees it.
    """

    setting: Setting
    members: tuple[Keys, ...]

    @staticmethod
    def of(setting: Setting, keys: Sequence[Keys]) -> "Roster":
        """The roster of these members, in their names' order.

        Raises:
            ConflictError: a name or a public key comes twice.
            QuorumNotMetError: they are too few for the plan.
            InvalidInputError: they are more than the plan's numbers hold.
        """
        members = tuple(sorted(keys, key=lambda member: member.merchant))
        roster = Roster(setting=setting, members=members)
        _check_distinct(members)
        if len(members) < max(SMALLEST_SUM, roster.threshold):
            raise QuorumNotMetError(
                f"{len(members)} merchants gave keys, a secure round needs "
                f"{max(SMALLEST_SUM, roster.threshold)}; start more clients or lower the quorum"
            )
        if len(members) > min(LARGEST_GROUP, setting.coding.largest_group):
            raise InvalidInputError("more members than the plan's sums hold; set a cohort")
        return roster

    @staticmethod
    def parse(setting: Setting, content: Content) -> "Roster":
        """A roster that the server sent; its signatures are not checked yet.

        Raises:
            InvalidInputError: it is malformed.
            ConflictError, QuorumNotMetError: as for ``of``.
        """
        record = content.configs.get("roster", {})
        columns = [record.get(name) for name in ("merchant", *_FIELDS)]
        if any(not isinstance(column, list) for column in columns):
            raise InvalidInputError("the roster lacks a column")
        if len({len(column) for column in columns if isinstance(column, list)}) != 1:
            raise InvalidInputError("the roster's columns differ in length")
        if any(isinstance(column, list) and len(column) > LARGEST_GROUP for column in columns):
            raise InvalidInputError(f"a roster holds at most {LARGEST_GROUP} members")
        rows = [dict(zip(("merchant", *_FIELDS), row, strict=True)) for row in _rows(columns)]
        if not all(is_name(row["merchant"]) for row in rows):
            raise InvalidInputError("the roster names no merchants")
        keys = [_checked_keys(MerchantId(row["merchant"]), row, setting.rounds) for row in rows]
        return Roster.of(setting, keys)

    def to_content(self) -> Content:
        """What the server sends to every member."""
        columns = {name: [getattr(row, name) for row in self.members] for name in _FIELDS}
        names = [str(member.merchant) for member in self.members]
        return Content(configs={"roster": {"merchant": names, **columns}})

    def check(self, trust: Trust) -> None:
        """Checks everybody's certificate and signature.

        Raises:
            UnauthorisedError, SignatureError, InvalidInputError: somebody's do not hold; the
                sentence names whose.
        """
        for member in self.members:
            member.check(self.setting, trust)

    def of_round(self, at: int) -> "Roster":
        """The same members in another round of the block, counted from 0."""
        if at == self.setting.at:
            return self
        if at not in self._views:
            self._views[at] = replace(self, setting=self.setting.turn(at))
        return self._views[at]

    @cached_property
    def _views(self) -> dict[int, "Roster"]:
        """The stages of a round come one after the other, and each needs the round's digest."""
        return {}

    @cached_property
    def round_digest(self) -> Sha256:
        """Names the round, and the roster: all that is derived for one round is bound to it."""
        if self.setting.rounds == 1:
            return self.digest
        return sha256_hex(canonical_json([_ROUND, str(self.digest), self.setting.at]))

    @cached_property
    def digest(self) -> Sha256:
        """Names the round, or the block, and everybody's keys."""
        rows = [
            [member.merchant, *(getattr(member, name).hex() for name in _FIELDS)]
            for member in self.members
        ]
        return sha256_hex(canonical_json([self.setting.context.decode(), rows]))

    @cached_property
    def positions(self) -> dict[MerchantId, int]:
        """Name -> position from 1 upward, which is also the point of its shares."""
        return {member.merchant: at for at, member in enumerate(self.members, 1)}

    @property
    def threshold(self) -> int:
        """How many members must answer in every stage."""
        return self.setting.threshold(len(self.members))

    def keys_of(self, merchant: MerchantId) -> Keys:
        """A member's keys."""
        return self.members[self.positions[merchant] - 1]

    def masking_of(self, merchant: MerchantId) -> bytes:
        """A member's masking key of this round."""
        return self.keys_of(merchant).masking_at(self.setting.at)

    def subset(self, names: object, what: str) -> tuple[MerchantId, ...]:
        """A list of members that came from outside, in order; at least the threshold.

        Raises:
            InvalidInputError: it is no list of distinct members in the names' order.
            QuorumNotMetError: they are fewer than the threshold.
        """
        if not isinstance(names, list) or not all(self._has(name) for name in names):
            raise InvalidInputError(f"{what} names somebody who is not in the roster")
        if names != sorted(set(names)):
            raise InvalidInputError(f"{what} must name each member once, in order")
        if len(names) < self.threshold:
            raise QuorumNotMetError(
                f"{what} names {len(names)} members, fewer than the threshold of "
                f"{self.threshold}; nothing is revealed"
            )
        return tuple(MerchantId(name) for name in names)

    def _has(self, name: object) -> bool:
        return isinstance(name, str) and name in self.positions


def is_name(value: object) -> bool:
    """Whether something from outside can be a merchant's name, and so stand in a sentence."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _rows(columns: Sequence[Any]) -> list[tuple[Any, ...]]:
    return list(zip(*columns, strict=True))


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _checked_keys(merchant: MerchantId, record: Mapping[str, Any], rounds: int) -> Keys:
    values = {name: record[name] for name in _FIELDS}
    lengths = {**dict.fromkeys(_PUBLIC_KEYS, KEY_BYTES), "masking": KEY_BYTES * rounds}
    if any(not isinstance(value, bytes) for value in values.values()):
        raise InvalidInputError(f"the keys of {merchant} are not bytes")
    if any(len(values[name]) != length for name, length in lengths.items()):
        raise InvalidInputError(
            f"a public key of {merchant} has not {KEY_BYTES} bytes, or one round has no key"
        )
    if len(values["certificate"]) > _MAX_CERTIFICATE_BYTES:
        raise InvalidInputError(f"the certificate of {merchant} is too long")
    if len(values["signature"]) > _MAX_SIGNATURE_BYTES:
        raise InvalidInputError(f"the signature of {merchant} is too long")
    return Keys(merchant=merchant, **values)


def _check_distinct(members: Sequence[Keys]) -> None:
    names = [member.merchant for member in members]
    keys = [key for member in members for key in member.every_key]
    if len(set(names)) != len(names):
        raise ConflictError("the roster names a merchant twice")
    if len(set(keys)) != len(keys):
        raise ConflictError("two keys of the roster are the same")


def _message(setting: Setting, merchant: MerchantId, public: Mapping[str, bytes]) -> bytes:
    body = [setting.context.decode(), merchant, *(public[name].hex() for name in _PUBLIC_KEYS)]
    return b"hansa secure aggregation keys v1\n" + canonical_json(body)
