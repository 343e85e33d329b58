"""What a member keeps between the stages of a round: its secrets, and what it has answered.

A stage is answered once: a repetition of the same request gets the same bytes, another request for
the same stage gets nothing. The shell must write a new state to the disk, readable by its owner
only, before it sends the answer that the state holds, and delete it when the round is over.
"""

import base64
import binascii
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import canonical_json, parse_json, sha256_hex
from hansa.core.errors import ConflictError, InvalidInputError

Secret = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
"""32 secret bytes in hexadecimal."""


class Answer(BaseModel):
    """A request that was answered, and with what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_sha256: str
    reply: Annotated[str, Field(repr=False)] = ""
    """Base64; empty where the reply is kept elsewhere."""


class MemberState(BaseModel):
    """One member's side of one round."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sealing: Secret
    """X25519 private key; shares for this member are opened with it."""
    masking: Secret
    """X25519 private key; the masks with others come from it."""
    voice: Secret
    """Ed25519 private key; signs the list of survivors."""
    seed: Secret
    """Seed of the member's own mask."""
    own_shares: Annotated[tuple[str, ...], Field(repr=False)] = ()
    """Its own shares of its masking key and of its seed, in hexadecimal; empty before stage 2."""
    roster: Annotated[str, Field(repr=False)] = ""
    """The roster's content file in base64; empty before stage 2."""
    sharers: tuple[str, ...] = ()
    """Who gave shares; empty before stage 3."""
    survivors: tuple[str, ...] = ()
    """The one list of survivors that this member signed; empty before stage 4."""
    answers: dict[str, Answer] = {}
    """By stage."""

    @staticmethod
    def parse(data: bytes, what: str) -> "MemberState":
        """The state in a file; ``what`` names it in the error.

        Raises:
            InvalidInputError: the bytes are no such state.
        """
        try:
            return MemberState.model_validate(parse_json(data, what))
        except ValidationError as error:
            raise InvalidInputError(f"{what} is not the state of a secure round") from error

    def to_bytes(self) -> bytes:
        """The file; to be written with mode 0600 only."""
        return canonical_json(self.model_dump(mode="json"))

    def answered(self, stage: str, request: bytes) -> bytes | None:
        """What was answered to this very request; None when the stage is still open.

        Raises:
            ConflictError: the stage was answered to another request.
        """
        answer = self.answers.get(stage)
        if answer is None:
            return None
        if answer.request_sha256 != sha256_hex(request):
            raise ConflictError(f"the stage '{stage}' was asked for again in other words")
        return decoded(answer.reply)

    def reply(self, stage: str) -> bytes:
        """What was answered in a stage.

        Raises:
            ConflictError: the stage is still open.
        """
        if stage not in self.answers:
            raise ConflictError(f"the stage '{stage}' of the secure round was not answered here")
        return decoded(self.answers[stage].reply)

    def answering(
        self, stage: str, request: bytes, reply: bytes = b"", **changes: object
    ) -> "MemberState":
        """The state once a stage is answered."""
        answer = Answer(request_sha256=sha256_hex(request), reply=encoded(reply))
        return self.model_copy(update={**changes, "answers": {**self.answers, stage: answer}})


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
