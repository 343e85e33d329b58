"""Errors on the wire: one table from Hansa's errors to gRPC's status codes."""

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from hansa.core.errors import (
    BudgetExhaustedError,
    ConflictError,
    HansaError,
    InvalidInputError,
    LedgerError,
    NotFoundError,
    QuorumNotMetError,
    UnauthorisedError,
    UntrustedReleaseError,
    UpdateRejectedError,
)

_log = logging.getLogger(__name__)

STATUS: dict[type[HansaError], grpc.StatusCode] = {
    InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    ConflictError: grpc.StatusCode.ALREADY_EXISTS,
    UnauthorisedError: grpc.StatusCode.PERMISSION_DENIED,
    BudgetExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    LedgerError: grpc.StatusCode.FAILED_PRECONDITION,
    UpdateRejectedError: grpc.StatusCode.FAILED_PRECONDITION,
    UntrustedReleaseError: grpc.StatusCode.FAILED_PRECONDITION,
    QuorumNotMetError: grpc.StatusCode.FAILED_PRECONDITION,
}


def status_of(error: HansaError) -> grpc.StatusCode:
    """The status code of an error; an error that is not in the table is internal."""
    return STATUS.get(type(error), grpc.StatusCode.INTERNAL)


async def _abort(context: Any, error: Exception, call: str) -> None:
    if context.done():
        return  # The stream was ended from outside, while the method met its own error.
    if isinstance(error, HansaError):
        await context.abort(status_of(error), str(error))
    _log.error("%s failed", call, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "the server met an unexpected error; see its log")


def unary(
    method: Callable[[Any, Any, Any], Awaitable[Any]],
) -> Callable[[Any, Any, Any], Awaitable[Any]]:
    """Turns the errors of a call with one reply into statuses."""

    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the seam: nothing but a status may leave
            return await _abort(context, error, method.__qualname__)

    return call


def streaming(
    method: Callable[[Any, Any, Any], AsyncIterator[Any]],
) -> Callable[[Any, Any, Any], AsyncIterator[Any]]:
    """Turns the errors of a call with a stream of replies into statuses."""

    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for reply in method(self, request, context):
                yield reply
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the seam: nothing but a status may leave
            await _abort(context, error, method.__qualname__)

    return call
