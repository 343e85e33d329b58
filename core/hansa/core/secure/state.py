"""What a member keeps between the stages of a round: its secrets, and what it has answered.

A stage is answered once: a repetition of the same request gets the same bytes, another request for
the same stage gets nothing. The state of a block of rounds is one file, readable by its owner only:
a first line with the secrets, and a line for each later answer. The shell must have an answer's
line on the disk before the answer leaves, and delete the file when the block is over.

The last stage has no line. What it gives is one share of each member's one secret, as the line of
the stage before it fixes for ever; so no second request, after a crash, can get another's.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import canonical_json, parse_json, sha256_hex
from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.secure.protocol import KEYS, SHARES, SURVIVORS, TRAIN

Secret = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
"""32 secret bytes in hexadecimal."""

ERASED: Final = "0" * 64
"""Stands where a secret was that nothing needs any more; as long as one, to be written over it."""

_ONCE: Final = frozenset({KEYS, SHARES})
"""Stages that take place once in a block."""
_WRITTEN: Final = (TRAIN, SURVIVORS)


class Answer(BaseModel):
    """A request that was answered, and with what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_sha256: str
    reply: Annotated[str, Field(repr=False)] = ""
    """Base64; empty where the reply is kept elsewhere."""


class RoundSecrets(BaseModel):
    """What hides one member's update in one round; drawn for that round alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    masking: Secret
    """X25519 private key; the masks with others come from it."""
    seed: Secret
    """Seed of the member's own mask."""
    own_shares: Annotated[tuple[str, ...], Field(repr=False)] = ()
    """Its own shares of these two secrets, in hexadecimal; empty before stage 2."""

    @property
    def are_erased(self) -> bool:
        """Whether they were written over."""
        return ERASED in (self.masking, self.seed)


class Turn(BaseModel):
    """How far one round of the block has come for this member."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sharers: tuple[str, ...] = ()
    """With whom its update is masked; empty before stage 3."""
    survivors: tuple[str, ...] = ()
    """The one list of survivors that this member signed; empty before stage 4."""
    answers: dict[str, Answer] = {}
    """By stage, of stages 3 to 5."""


class _Line(BaseModel):
    """A line of the file after the first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Annotated[int, Field(ge=0)]
    stage: str
    names: tuple[str, ...]
    """The sharers of stage 3, the survivors of stage 4."""
    answer: Answer


_EMPTY: Final = Turn()


class MemberState(BaseModel):
    """One member's side of one round, or of a block of rounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sealing: Secret
    """X25519 private key; shares for this member are opened with it."""
    voice: Secret
    """Ed25519 private key; signs the lists of survivors."""
    secrets: tuple[RoundSecrets, ...]
    """Of each round."""
    roster: Annotated[str, Field(repr=False)] = ""
    """The roster's content file in base64; empty before stage 2."""
    answers: dict[str, Answer] = {}
    """By stage, of stages 1 and 2."""
    turns: Annotated[dict[int, Turn], Field(exclude=True)] = {}
    """By round of the block, from 0."""

    @staticmethod
    def parse(data: bytes, what: str) -> "MemberState":
        """The state in a file; ``what`` names it in the error.

        A last line that a crash left torn is as if it had not been begun: its answer never left.

        Raises:
            InvalidInputError: the bytes are no such state.
        """
        first, *lines = data.split(b"\n")
        try:
            state = MemberState.model_validate(parse_json(first, what))
            for line in _whole(lines):
                state = _with_line(state, _Line.model_validate(parse_json(line, what)))
        except ValidationError as error:
            raise InvalidInputError(f"{what} is not the state of a secure round") from error
        return state

    def to_bytes(self) -> bytes:
        """The whole file; to be written with mode 0600 only."""
        head = canonical_json(self.model_dump(mode="json")) + b"\n"
        lines = (
            self.line(stage, at)
            for at, turn in sorted(self.turns.items())
            for stage in _WRITTEN
            if stage in turn.answers
        )
        return head + b"".join(lines)

    def line(self, stage: str, at: int) -> bytes:
        """What is appended to the file when this stage of a round is answered.

        Raises:
            ConflictError: it is not.
        """
        turn = self.turn(at)
        if stage not in turn.answers:
            raise _open(stage)
        names = turn.sharers if stage == TRAIN else turn.survivors
        line = _Line(at=at, stage=stage, names=names, answer=turn.answers[stage])
        return canonical_json(line.model_dump(mode="json")) + b"\n"

    def turn(self, at: int) -> Turn:
        """How far a round of the block has come."""
        return self.turns.get(at, _EMPTY)

    def answered(self, stage: str, request: bytes, at: int = 0) -> bytes | None:
        """What was answered to this very request; None when the stage is still open.

        Raises:
            ConflictError: the stage was answered to another request.
        """
        answer = self._answers(stage, at).get(stage)
        if answer is None:
            return None
        if answer.request_sha256 != sha256_hex(request):
            raise ConflictError(f"the stage '{stage}' was asked for again in other words")
        return decoded(answer.reply)

    def reply(self, stage: str, at: int = 0) -> bytes:
        """What was answered in a stage.

        Raises:
            ConflictError: the stage is still open.
        """
        answers = self._answers(stage, at)
        if stage not in answers:
            raise _open(stage)
        return decoded(answers[stage].reply)

    def answering(
        self, stage: str, request: bytes, reply: bytes = b"", at: int = 0, **changes: object
    ) -> "MemberState":
        """The state once a stage is answered; ``changes`` are of the block, or of the round."""
        answer = Answer(request_sha256=sha256_hex(request), reply=encoded(reply))
        answers = {**self._answers(stage, at), stage: answer}
        if stage in _ONCE:
            return self.model_copy(update={**changes, "answers": answers})
        turn = self.turn(at).model_copy(update={**changes, "answers": answers})
        return self.model_copy(update={"turns": {**self.turns, at: turn}})

    def unneeded(self, at: int) -> list[str]:
        """The secrets that nobody needs any more once round ``at`` has got so far.

        Those of earlier rounds, and its own when the list of survivors is signed: whatever comes
        then is made of others' shares.
        """
        end = at + (SURVIVORS in self.turn(at).answers)
        old = [one for one in self.secrets[:end] if not one.are_erased]
        return [secret for one in old for secret in (one.masking, one.seed)]

    def without(self, at: int) -> "MemberState":
        """The state without what is ``unneeded``."""
        end = at + (SURVIVORS in self.turn(at).answers)
        gone = {"masking": ERASED, "seed": ERASED}
        kept = (
            one.model_copy(update=gone) if number < end else one
            for number, one in enumerate(self.secrets)
        )
        return self.model_copy(update={"secrets": tuple(kept)})

    def _answers(self, stage: str, at: int) -> Mapping[str, Answer]:
        return self.answers if stage in _ONCE else self.turn(at).answers


def _with_line(state: MemberState, line: _Line) -> MemberState:
    key = "sharers" if line.stage == TRAIN else "survivors"
    if line.stage not in _WRITTEN or line.at >= len(state.secrets):
        raise InvalidInputError("the state of a secure round is damaged")
    old = state.turn(line.at)
    update = {key: line.names, "answers": {**old.answers, line.stage: line.answer}}
    return state.model_copy(
        update={"turns": {**state.turns, line.at: old.model_copy(update=update)}}
    )


def _whole(lines: list[bytes]) -> Iterator[bytes]:
    """All lines but a torn one: what stands behind the last line's end, or cannot be read there."""
    *ended, _ = lines or [b""]
    for number, line in enumerate(ended, 1):
        try:
            parse_json(line, "a line")
        except InvalidInputError:
            if number < len(ended):
                raise
            return
        yield line


def _open(stage: str) -> ConflictError:
    return ConflictError(f"the stage '{stage}' of the secure round was not answered here")


def encoded(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode("ascii")


def decoded(text: str) -> bytes:
    """Bytes from base64.

    Raises:
        InvalidInputError: the text is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidInputError("the state of a secure round is damaged") from error
