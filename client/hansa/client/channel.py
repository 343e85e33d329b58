"""The one connection that leaves the premises: mTLS to the operator's server."""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
from cryptography import x509

from hansa.core.clocks import own_certificate_sentence, server_certificate_sentence
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
_CLOSED = ("Socket closed", "andshake failed", "Connection reset", "Broken pipe")
_ERRORS: dict[grpc.StatusCode, type[HansaError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthorisedError,
    grpc.StatusCode.FAILED_PRECONDITION: LedgerError,
}


def utc_now() -> dt.datetime:
    """This machine's clock."""
    return dt.datetime.now(dt.UTC)


def open_channel(
    address: str, *, authority_pem: bytes, key_pem: bytes, certificate_pem: bytes
) -> grpc.Channel:
    """A channel that trusts only the pinned CA and shows only the given certificate."""
    credentials = grpc.ssl_channel_credentials(authority_pem, key_pem, certificate_pem)
    return grpc.secure_channel(address, credentials, options=_OPTIONS)


@contextmanager
def translated(
    address: str, shown: x509.Certificate | None = None, clock: Callable[[], dt.datetime] = utc_now
) -> Iterator[None]:
    """Turns gRPC's errors into Hansa's.

    Args:
        address: whom the sentences name.
        shown: the certificate of this side: where its dates tell why the line was closed, the
            sentence says so.
        clock: of this machine.

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
        if code is grpc.StatusCode.UNAVAILABLE and (why := _dates(text, shown, clock())):
            raise TransportError(f"the server {address} cannot be reached: {why}") from error
        raise TransportError(_advice(address, code, text)) from error


def _dates(text: str, shown: x509.Certificate | None, now: dt.datetime) -> str | None:
    """A closed line's reason, where a certificate's dates give it."""
    if (sentence := server_certificate_sentence(text, now)) is not None:
        return sentence
    refused = any(mark in text for mark in _CLOSED)  # a server that does not run refuses otherwise
    return own_certificate_sentence(shown, now) if shown is not None and refused else None


def _advice(address: str, code: grpc.StatusCode, text: str) -> str:
    if code is grpc.StatusCode.UNAVAILABLE:
        return (
            f"the server {address} cannot be reached: check that it runs, that this machine may "
            f"connect to it, and that this certificate is still valid ({text[:200]})"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the server {address} did not answer in time; try again"
    return f"the server {address} answered {code.name}: {text[:200]}"
