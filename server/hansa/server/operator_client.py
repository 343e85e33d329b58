"""The operator's side of the Operator service, as the commands use it."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from hansa.core.credentials import read_credentials
from hansa.core.errors import (
    ConflictError,
    HansaError,
    InvalidInputError,
    NotFoundError,
    TransportError,
    UnauthorisedError,
)
from hansa.core.identity import SERVER_DNS_NAME
from hansa.core.plan import RunPlan
from hansa.protos.v1 import operator_pb2 as pb
from hansa.protos.v1 import operator_pb2_grpc as rpc
from hansa.server.settings import StateFolder

_TIMEOUT_S = 30.0
_PACK_TIMEOUT_S = 300.0
_OPTIONS = (("grpc.ssl_target_name_override", SERVER_DNS_NAME), ("grpc.enable_http_proxy", 0))
_ERRORS: dict[grpc.StatusCode, type[HansaError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthorisedError,
}


class OperatorClient:
    """Calls the running server with the operator's certificate."""

    def __init__(self, stub: rpc.OperatorStub) -> None:
        self._stub = stub

    def invite(self, merchant: str, valid_for_hours: int) -> pb.Invitation:
        """A single-use invitation."""
        request = pb.InviteRequest(merchant=merchant, valid_for_hours=valid_for_hours)
        reply: pb.Invitation = self._stub.Invite(request, timeout=_TIMEOUT_S)
        return reply

    def merchants(self) -> list[pb.MerchantInfo]:
        """All members and open invitations."""
        return list(
            self._stub.ListMerchants(pb.ListMerchantsRequest(), timeout=_TIMEOUT_S).merchants
        )

    def revoke(self, merchant: str) -> pb.MerchantInfo:
        """Ends a membership at once."""
        request = pb.RevokeMerchantRequest(merchant=merchant)
        reply: pb.MerchantInfo = self._stub.RevokeMerchant(request, timeout=_TIMEOUT_S)
        return reply

    def start_run(self, plan: RunPlan) -> pb.RunInfo:
        """Queues a plan."""
        request = pb.StartRunRequest(plan_json=plan.model_dump_json().encode())
        reply: pb.RunInfo = self._stub.StartRun(request, timeout=_TIMEOUT_S)
        return reply

    def stop_run(self, run_id: str) -> pb.RunInfo:
        """Asks a run to end."""
        request = pb.StopRunRequest(run_id=run_id)
        reply: pb.RunInfo = self._stub.StopRun(request, timeout=_TIMEOUT_S)
        return reply

    def run(self, run_id: str) -> pb.RunInfo:
        """One run with its rounds."""
        request = pb.GetRunRequest(run_id=run_id)
        reply: pb.RunInfo = self._stub.GetRun(request, timeout=_TIMEOUT_S)
        return reply

    def runs(self) -> list[pb.RunInfo]:
        """All runs, newest first."""
        return list(self._stub.ListRuns(pb.ListRunsRequest(), timeout=_TIMEOUT_S).runs)

    def pack(self, run_id: str) -> bytes:
        """The audit pack of a run."""
        request = pb.ExportPackRequest(run_id=run_id)
        return b"".join(
            chunk.data for chunk in self._stub.ExportPack(request, timeout=_PACK_TIMEOUT_S)
        )


@contextmanager
def connect(state: StateFolder) -> Iterator[OperatorClient]:
    """A client for the server whose state lies here.

    Raises:
        TransportError: the server does not run.
        HansaError: the server refused, with its own sentence.
    """
    settings = state.settings()
    own = read_credentials(state.authority, "operator")
    root = (state.authority / "authority.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(root, own.key_pem, own.certificate_pem)
    address = f"127.0.0.1:{settings.port}"
    with grpc.secure_channel(address, credentials, options=_OPTIONS) as channel:
        try:
            yield OperatorClient(rpc.OperatorStub(channel))
        except grpc.RpcError as error:
            raise _translated(error, address) from error


def _translated(error: grpc.RpcError, address: str) -> HansaError:
    code, text = error.code(), error.details() or ""
    if code in _ERRORS:
        return _ERRORS[code](text)
    if code is grpc.StatusCode.UNAVAILABLE:
        return TransportError(
            f"no server answers at {address}; start it with 'hansa-server start' ({text[:200]})"
        )
    return TransportError(f"the server answered {code.name}: {text[:200]}")
