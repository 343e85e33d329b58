"""Every error that Hansa raises on purpose, named by the rule that was broken.

The message is one sentence for a person and says what to do next. Only the commands print it, and
they exit with the error's ``exit_code``; the gRPC plane maps the class to a status in one table.
"""

from typing import ClassVar


class HansaError(Exception):
    """The base of all deliberate errors."""

    exit_code: ClassVar[int] = 1


class InvalidInputError(HansaError):
    """A file, a setting or an argument is not what it must be; the caller can mend it."""

    exit_code = 2


class NotFoundError(HansaError):
    """A named thing (run, merchant, release, file) does not exist."""

    exit_code = 3


class ConflictError(HansaError):
    """The request contradicts what is already recorded (used token, other content for one id)."""

    exit_code = 4


class UnauthorisedError(HansaError):
    """The caller's certificate does not permit this."""

    exit_code = 5


class BudgetExhaustedError(HansaError):
    """The reservation would exceed the merchant's privacy cap; nothing was spent or trained."""

    exit_code = 6


class LedgerError(HansaError):
    """The privacy ledger is broken, edited, truncated or in use by another process."""

    exit_code = 7


class UntrustedReleaseError(HansaError):
    """A release or its metadata does not carry the trust that it needs."""

    exit_code = 8


class UpdateRejectedError(HansaError):
    """A merchant's update breaks the plan (names, shapes, finite values, norm)."""

    exit_code = 9


class QuorumNotMetError(HansaError):
    """Fewer valid updates than the plan's quorum arrived before the deadline."""

    exit_code = 10


class ReleaseGateError(HansaError):
    """No compressed candidate is within the plan's limits; nothing is released."""

    exit_code = 11


class TransportError(HansaError):
    """The other side cannot be reached, or the line broke."""

    exit_code = 12


class AuditFailedError(HansaError):
    """The evidence does not support the claim; the message says where."""

    exit_code = 13


class SignatureError(HansaError):
    """Signed content is not signed by the key that must vouch for it."""

    exit_code = 14


class TransparencyError(HansaError):
    """The operator's log was cut, rewritten or forked, or hides entries; the message says where."""

    exit_code = 15


class ContractError(HansaError):
    """A request is outside the terms that the merchant accepted; nothing was done."""

    exit_code = 16
