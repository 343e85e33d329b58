"""Calls that are not as they must be, and the services that stand beside ours."""

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hansa.protos.v1 import enrolment_pb2
from hansa.protos.v1 import federation_pb2 as pb
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Federation,
)
from tests.integration.plane.calls import (
    DATA,
    Code,
    invited,
    refusal,
)
from tests.integration.raw_member import RawMember

pytestmark = pytest.mark.integration


class TestTheFormOfACall:
    def test_a_client_of_another_protocol_version_is_told_both_versions(
        self, federation: Federation, member: RawMember, name: str
    ) -> None:
        register = pb.RegisterRequest(protocol="2")
        joining = enrolment_pb2.JoinRequest(protocol="2", ledger_public_key=bytes(32))
        with federation.caller(invited(federation.invite(f"{name}-new"))) as stranger:
            for call in (
                lambda: member.federation.Register(register, timeout=TIMEOUT_S),
                lambda: stranger.enrolment.Join(joining, timeout=TIMEOUT_S),
            ):
                code, text = refusal(call)
                assert code is Code.INVALID_ARGUMENT
                assert "version 1" in text
                assert "'2'" in text

    def test_a_call_without_a_deadline_is_refused(self, member: RawMember) -> None:
        subscription = pb.SubscribeRequest(session=member.session)
        for call in (
            lambda: member.federation.Register(pb.RegisterRequest(protocol="1")),
            lambda: list(member.federation.Subscribe(subscription)),
        ):
            code, text = refusal(call)
            assert code is Code.INVALID_ARGUMENT
            assert "deadline" in text

    def test_a_message_over_the_limit_is_refused(self, member: RawMember) -> None:
        code, text = refusal(lambda: member.complete("a/1/train/b", DATA, bytes(5 << 20)))
        assert code is Code.RESOURCE_EXHAUSTED
        assert "larger than max" in text

    def test_a_refusal_without_a_reason_is_refused(self, member: RawMember, task: pb.Task) -> None:
        code, text = refusal(lambda: member.refuse(task.task_id, pb.REFUSAL_REASON_UNSPECIFIED))
        assert (code, text) == (Code.INVALID_ARGUMENT, "a refusal needs a reason")

    def test_reflection_is_off(self, member: RawMember) -> None:
        stub = reflection_pb2_grpc.ServerReflectionStub(member.caller.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        code, _ = refusal(
            lambda: list(stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT_S))
        )
        assert code is Code.UNIMPLEMENTED

    def test_health_is_told_over_mutual_tls(self, federation: Federation) -> None:
        request = health_pb2.HealthCheckRequest()
        with federation.caller(federation.operators()) as caller:
            reply = health_pb2_grpc.HealthStub(caller.channel).Check(request, timeout=TIMEOUT_S)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with federation.caller(None) as stranger:
            stub = health_pb2_grpc.HealthStub(stranger.channel)
            assert refusal(lambda: stub.Check(request, timeout=TIMEOUT_S))[0] is Code.UNAVAILABLE
