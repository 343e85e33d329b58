"""The operator's side of the Operator service, as the commands use it."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from cryptography import x509

from hansa.core.clocks import own_certificate_sentence, server_certificate_sentence
from hansa.core.errors import (
    ConflictError,
    HansaError,
    InvalidInputError,
    NotFoundError,
    TransportError,
    UnauthorisedError,
)
from hansa.core.flower_plan import AnyPlan
from hansa.core.identity import SERVER_DNS_NAME
from hansa.core.plan import RunPlan
from hansa.protos.v1 import operator_pb2 as pb
from hansa.protos.v1 import operator_pb2_grpc as rpc
from hansa.server.own_certificates import OPERATOR, read_own
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

    def take_notice(self, notice: bytes) -> bytes:
        """Ends a membership by the merchant's own notice; returns the receipt."""
        request = pb.TakeNoticeRequest(notice=notice)
        return bytes(self._stub.TakeNotice(request, timeout=_PACK_TIMEOUT_S).receipt)

    def obligations(self) -> list[pb.Obligation]:
        """What is owed to merchants that left, by the time of leaving."""
        request = pb.ListObligationsRequest()
        return list(self._stub.ListObligations(request, timeout=_PACK_TIMEOUT_S).obligations)

    def admit_auditor(self, name: str, csr_der: bytes, days: int) -> pb.AuditorGrant:
        """Lets an auditor read the log and the packs."""
        request = pb.AdmitAuditorRequest(name=name, csr_der=csr_der, valid_for_days=days)
        reply: pb.AuditorGrant = self._stub.AdmitAuditor(request, timeout=_TIMEOUT_S)
        return reply

    def dismiss_auditor(self, name: str) -> None:
        """Ends an auditor's reading at once."""
        self._stub.DismissAuditor(pb.DismissAuditorRequest(name=name), timeout=_TIMEOUT_S)

    def start_run(self, plan: AnyPlan) -> pb.RunInfo:
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

    def add_schedule(self, name: str, plan: RunPlan, cron: str, drift: float) -> pb.ScheduleInfo:
        """Has a plan run again and again; see operator.proto for ``cron`` and ``drift``."""
        body = plan.model_dump_json().encode()
        request = pb.AddScheduleRequest(name=name, plan_json=body, cron=cron, drift=drift)
        reply: pb.ScheduleInfo = self._stub.AddSchedule(request, timeout=_TIMEOUT_S)
        return reply

    def schedules(self) -> list[pb.ScheduleInfo]:
        """All schedules by name."""
        reply = self._stub.ListSchedules(pb.ListSchedulesRequest(), timeout=_TIMEOUT_S)
        return list(reply.schedules)

    def remove_schedule(self, name: str) -> None:
        """Ends a schedule; runs that it began go on."""
        self._stub.RemoveSchedule(pb.RemoveScheduleRequest(name=name), timeout=_TIMEOUT_S)

    def arrays(self, run_id: str) -> bytes:
        """The last arrays of a run, as a content file."""
        request = pb.ExportArraysRequest(run_id=run_id)
        return b"".join(
            chunk.data for chunk in self._stub.ExportArrays(request, timeout=_PACK_TIMEOUT_S)
        )

    def pack(self, run_id: str) -> bytes:
        """The audit pack of a run."""
        request = pb.ExportPackRequest(run_id=run_id)
        return b"".join(
            chunk.data for chunk in self._stub.ExportPack(request, timeout=_PACK_TIMEOUT_S)
        )


@contextmanager
def connect(state: StateFolder, address: str | None = None) -> Iterator[OperatorClient]:
    """A client for the operator's server.

    Args:
        state: the folder with the operator's certificate. For a server elsewhere it need hold no
            more than ``authority/operator.key.pem``, ``operator.pem`` and ``authority.pem``.
        address: HOST:PORT of the server; by default the one whose state lies here.

    Raises:
        TransportError: the server does not run.
        HansaError: the server refused, with its own sentence.
    """
    address = address or state.settings().local_address
    own = read_own(state.authority, OPERATOR)
    root = (state.authority / "authority.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(root, own.key_pem, own.certificate_pem)
    with grpc.secure_channel(address, credentials, options=_OPTIONS) as channel:
        try:
            yield OperatorClient(rpc.OperatorStub(channel))
        except grpc.RpcError as error:
            raise _translated(error, address, own.certificate) from error


def _translated(error: grpc.RpcError, address: str, shown: x509.Certificate) -> HansaError:
    code, text = error.code(), error.details() or ""
    if code in _ERRORS:
        return _ERRORS[code](text)
    now = dt.datetime.now(dt.UTC)
    why = server_certificate_sentence(text, now) or own_certificate_sentence(shown, now)
    if code is grpc.StatusCode.UNAVAILABLE and why is not None:
        return TransportError(
            f"{address} cannot be reached: {why} "
            "(the operator's own is renewed with 'hansa-server rotate-certificate')"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return TransportError(
            f"no server answers at {address}; start it with 'hansa-server start' ({text[:200]})"
        )
    return TransportError(f"the server answered {code.name}: {text[:200]}")
