"""Why a task is not done, in words that the server may know: they quote nothing private."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hansa.client.interruption import WorkInterruptedError
from hansa.client.training.devices import DevicesMissingError
from hansa.core.errors import HansaError, InvalidInputError, NotFoundError
from hansa.protos.v1 import federation_pb2 as pb

_log = logging.getLogger(__name__)


class Refused(Exception):  # noqa: N818 - a decision, not a fault
    """The task is not done, for a reason that the server may know."""

    def __init__(self, reason: pb.RefusalReason, sentence: str) -> None:
        super().__init__(sentence)
        self.refusal = pb.Refusal(reason=reason, sentence=sentence[:500])


@contextmanager
def message_checked() -> Iterator[None]:
    """A task whose content is no message is not done."""
    try:
        yield
    except InvalidInputError as error:
        raise Refused(pb.REFUSAL_REASON_CONTRACT, str(error)) from error


@contextmanager
def rules_named() -> Iterator[None]:
    """The rule of a secure round that a request breaks; its sentence holds nothing private."""
    try:
        yield
    except NotFoundError as error:
        raise Refused(pb.REFUSAL_REASON_INTERRUPTED, str(error)) from error
    except HansaError as error:
        raise Refused(pb.REFUSAL_REASON_CONTRACT, str(error)) from error


@contextmanager
def faults_named() -> Iterator[None]:
    """Lets only the kind of a fault leave: its text may quote private data; it stays in the log.

    That devices are missing quotes nothing, and the operator must know it.
    """
    try:
        yield
    except DevicesMissingError as error:
        raise Refused(pb.REFUSAL_REASON_CONTRACT, str(error)) from error
    except WorkInterruptedError:
        raise
    except Exception as error:
        _log.exception("the work failed")
        raise Refused(pb.REFUSAL_REASON_FAILED, type(error).__name__) from error
