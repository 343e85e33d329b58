"""What each role in a certificate may call."""

import pytest

from hansa.core.credentials import read_credentials
from hansa.protos.v1 import operator_pb2
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Federation,
)
from tests.integration.plane.calls import (
    SERVICES,
    Code,
    all_answers,
    answers,
    denied,
    invited,
    refusal,
    register,
)
from tests.integration.raw_member import RawMember

pytestmark = pytest.mark.integration


class TestRoles:
    """The role in the certificate decides, on every method that the protocol has now or later."""

    def test_an_invitation_opens_nothing_but_join(self, federation: Federation, name: str) -> None:
        with federation.caller(invited(federation.invite(name))) as caller:
            assert all_answers(caller, *SERVICES, but="Join") == denied(*SERVICES, but="Join")

    def test_a_merchant_may_not_act_as_the_operator_nor_join_again(
        self, federation: Federation, member: RawMember
    ) -> None:
        assert all_answers(member.caller, "Operator") == denied("Operator")
        assert answers(member.caller, SERVICES["Enrolment"])["Join"] is Code.PERMISSION_DENIED

    def test_the_operator_may_not_act_as_a_merchant(self, federation: Federation) -> None:
        services = ("Federation", "Releases", "Enrolment")
        with federation.caller(federation.operators()) as caller:
            assert all_answers(caller, *services) == denied(*services)

    def test_the_servers_own_certificate_is_nobodys(self, federation: Federation) -> None:
        """It is for servers only, and TLS knows."""
        with federation.caller(read_credentials(federation.state.authority, "server")) as caller:
            code, _ = refusal(lambda: register(caller))
        assert code in (Code.UNAVAILABLE, Code.PERMISSION_DENIED)

    def test_the_refusal_names_both_roles(self, federation: Federation, member: RawMember) -> None:
        code, text = refusal(
            lambda: member.caller.operator.ListMerchants(
                operator_pb2.ListMerchantsRequest(), timeout=TIMEOUT_S
            )
        )
        assert (code, "operator" in text, "merchant" in text) == (
            Code.PERMISSION_DENIED,
            True,
            True,
        )
