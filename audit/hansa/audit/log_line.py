"""The log service over gRPC, as an auditor calls it."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from hansa.audit.access import Access
from hansa.core.errors import (
    HansaError,
    InvalidInputError,
    NotFoundError,
    TransportError,
    UnauthorisedError,
)
from hansa.core.identity import SERVER_DNS_NAME
from hansa.protos.v1 import log_pb2 as pb
from hansa.protos.v1 import log_pb2_grpc as rpc

_TIMEOUT_S = 30.0
_PACK_TIMEOUT_S = 300.0
_OPTIONS = (("grpc.ssl_target_name_override", SERVER_DNS_NAME), ("grpc.enable_http_proxy", 0))
_ERRORS: dict[grpc.StatusCode, type[HansaError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthorisedError,
}


class GrpcLogSource:
    """Asks over an open channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = rpc.TransparencyLogStub(channel)

    def checkpoint(self) -> bytes:
        """The newest signed checkpoint."""
        return bytes(self._stub.Checkpoint(pb.CheckpointRequest(), timeout=_TIMEOUT_S).note)

    def entries(self, first: int, count: int) -> list[bytes]:
        """Leaves in order."""
        request = pb.EntriesRequest(first=first, count=count)
        return list(self._stub.Entries(request, timeout=_TIMEOUT_S).leaves)

    def packs(self) -> list[str]:
        """The runs that have ended."""
        return list(self._stub.Packs(pb.PacksRequest(), timeout=_TIMEOUT_S).run_ids)

    def pack(self, run: str) -> Iterator[bytes]:
        """One run's pack, in pieces."""
        for chunk in self._stub.Pack(pb.PackRequest(run_id=run), timeout=_PACK_TIMEOUT_S):
            yield chunk.data


@contextmanager
def open_line(access: Access) -> Iterator[GrpcLogSource]:
    """The operator's server over mTLS.

    Raises:
        TransportError: it cannot be reached.
        HansaError: it refuses, with its own sentence.
    """
    grant, own = access.grant(), access.credentials()
    credentials = grpc.ssl_channel_credentials(
        grant.authority_pem.encode(), own.key_pem, own.certificate_pem
    )
    with grpc.secure_channel(grant.address, credentials, options=_OPTIONS) as channel:
        try:
            yield GrpcLogSource(channel)
        except grpc.RpcError as error:
            raise _translated(error, grant.address) from error


def _translated(error: grpc.RpcError, address: str) -> HansaError:
    code, text = error.code(), error.details() or ""
    if code in _ERRORS:
        return _ERRORS[code](text)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotFoundError("this server keeps no transparency log; ask for packs instead")
    if code is grpc.StatusCode.UNAVAILABLE:
        return TransportError(
            f"the server {address} cannot be reached; check the line and that the grant has not "
            f"expired ({text[:200]})"
        )
    return TransportError(f"the server answered {code.name}: {text[:200]}")
