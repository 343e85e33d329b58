"""What the tests of the plane have in common: calls by hand and their refusals."""

import datetime as dt
from collections.abc import Callable

import grpc
import pytest
from cryptography import x509
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from hansa.core.identity import (
    Credentials,
    Identity,
    Role,
    certificate_of,
    certificate_request,
    issue,
    load_key,
    make_authority,
    make_key,
)
from hansa.core.invitation import Invitation
from hansa.protos.v1 import enrolment_pb2, federation_pb2, log_pb2, operator_pb2, releases_pb2
from hansa.protos.v1 import federation_pb2 as pb
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Caller,
    Federation,
    Server,
)
from tests.integration.raw_member import RawMember

Code = grpc.StatusCode
DATA = b"an update, as far as the plane is concerned"
SERVICES = {
    "Enrolment": enrolment_pb2.DESCRIPTOR.services_by_name["Enrolment"],
    "Federation": federation_pb2.DESCRIPTOR.services_by_name["Federation"],
    "Operator": operator_pb2.DESCRIPTOR.services_by_name["Operator"],
    "Releases": releases_pb2.DESCRIPTOR.services_by_name["Releases"],
    "TransparencyLog": log_pb2.DESCRIPTOR.services_by_name["TransparencyLog"],
}


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """The status and the sentence with which a call is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code(), refused.value.details()


def answers(caller: Caller, service: ServiceDescriptor) -> dict[str, grpc.StatusCode]:
    """What an empty request to each method of a service is answered with."""
    return {method.name: answer(caller, method) for method in service.methods}


def answer(caller: Caller, method: MethodDescriptor) -> grpc.StatusCode:
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = (method.client_streaming, method.server_streaming)
    calls = {
        (False, False): lambda: caller.channel.unary_unary(path)(b"", timeout=TIMEOUT_S),
        (False, True): lambda: list(caller.channel.unary_stream(path)(b"", timeout=TIMEOUT_S)),
        (True, False): lambda: caller.channel.stream_unary(path)(iter([b""]), timeout=TIMEOUT_S),
    }
    return refusal(calls[kind])[0]


def denied(*services: str, but: str = "") -> dict[str, grpc.StatusCode]:
    methods = [method.name for service in services for method in SERVICES[service].methods]
    return {method: Code.PERMISSION_DENIED for method in methods if method != but}


def all_answers(caller: Caller, *services: str, but: str = "") -> dict[str, grpc.StatusCode]:
    found = {}
    for service in services:
        found.update(answers(caller, SERVICES[service]))
    found.pop(but, None)
    return found


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def register(caller: Caller) -> pb.Session:
    return caller.federation.Register(pb.RegisterRequest(protocol="1"), timeout=TIMEOUT_S)


def foreign(name: str, authority: str) -> Credentials:
    """A merchant's certificate by somebody else's authority."""
    elsewhere = make_authority(authority, now=now(), valid_for=dt.timedelta(days=1))
    key = make_key()
    identity = Identity(role=Role.MERCHANT, name=name)
    certificate = issue(
        elsewhere, key.public_key(), identity, now=now(), valid_for=dt.timedelta(hours=1)
    )
    return Credentials(key=key, certificate=certificate)


def invited(invitation: Invitation) -> Credentials:
    certificate = x509.load_pem_x509_certificate(invitation.certificate_pem.encode())
    return Credentials(key=load_key(invitation.key_pem.encode()), certificate=certificate)


def join_request(name: str) -> enrolment_pb2.JoinRequest:
    csr = certificate_request(make_key(), name)
    return enrolment_pb2.JoinRequest(protocol="1", csr_der=csr, ledger_public_key=bytes(32))


def renewed(member: RawMember) -> Credentials:
    """A newer certificate of the member; the site keeps the old one."""
    key = make_key()
    request = enrolment_pb2.RenewRequest(csr_der=certificate_request(key, member.name))
    membership = member.caller.enrolment.Renew(request, timeout=TIMEOUT_S)
    return Credentials(key=key, certificate=certificate_of(membership.certificate_der))


def revoke(federation: Federation, member: RawMember) -> None:
    with federation.operator() as client:
        client.revoke(member.name)


def listening(server: Server, member: RawMember) -> bool:
    return bool(server.parts.switchboard._streams[member.name])
