"""The one connection that leaves the premises: mTLS to the operator's server."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from hansa.core.errors import (
    ConflictError,
    HansaError,
    InvalidInputError,
    LedgerError,
    NotFoundError,
    TransportError,
    UnauthorisedError,
)
from hansa.core.identity import SERVER_DNS_NAME

CALL_TIMEOUT_S = 30.0
"""Deadline of a call that moves no blob."""

TRANSFER_TIMEOUT_S = 600.0
"""Deadline of a call that moves a blob; a broken transfer goes on where it stopped."""

_MAX_MESSAGE_BYTES = 4 << 20
_OPTIONS = (
    ("grpc.ssl_target_name_override", SERVER_DNS_NAME),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
)
_ERRORS: dict[grpc.StatusCode, type[HansaError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthorisedError,
    grpc.StatusCode.FAILED_PRECONDITION: LedgerError,
}


def open_channel(
    address: str, *, authority_pem: bytes, key_pem: bytes, certificate_pem: bytes
) -> grpc.Channel:
    """A channel that trusts only the pinned CA and shows only the given certificate."""
    credentials = grpc.ssl_channel_credentials(authority_pem, key_pem, certificate_pem)
    return grpc.secure_channel(address, credentials, options=_OPTIONS)


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Turns gRPC's errors into Hansa's.

    Raises:
        TransportError: the server cannot be reached, or closed the line without a word (which is
            what an unknown certificate meets).
        HansaError: the server refused, with its own sentence.
    """
    try:
        yield
    except grpc.RpcError as error:
        code, text = error.code(), error.details() or ""
        if code in _ERRORS:
            raise _ERRORS[code](text) from error
        raise TransportError(_advice(address, code, text)) from error


def _advice(address: str, code: grpc.StatusCode, text: str) -> str:
    if code is grpc.StatusCode.UNAVAILABLE:
        return (
            f"the server {address} cannot be reached: check that it runs, that this machine may "
            f"connect to it, and that this certificate is still valid ({text[:200]})"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the server {address} did not answer in time; try again"
    return f"the server {address} answered {code.name}: {text[:200]}"
