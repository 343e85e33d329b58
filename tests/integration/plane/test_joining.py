"""Invitations and what can be made of them."""

import contextlib
import datetime as dt
from collections.abc import Iterator

import pytest

from hansa.client.enrol import Terms, join
from hansa.client.site import Site
from hansa.core.identity import (
    Identity,
    Role,
    certificate_of,
    identity_of,
)
from hansa.protos.v1 import enrolment_pb2
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Federation,
)
from tests.integration.plane.calls import (
    Code,
    invited,
    join_request,
    now,
    refusal,
    register,
)
from tests.integration.raw_member import RawMember

pytestmark = pytest.mark.integration


class TestJoining:
    def test_the_same_request_gets_the_same_certificate_again(
        self, federation: Federation, name: str
    ) -> None:
        request = join_request(name)
        with federation.caller(invited(federation.invite(name))) as caller:
            replies = [caller.enrolment.Join(request, timeout=TIMEOUT_S) for _ in range(2)]
        assert replies[0] == replies[1]

    def test_a_used_invitation_is_refused(self, federation: Federation, name: str) -> None:
        with federation.caller(invited(federation.invite(name))) as caller:
            caller.enrolment.Join(join_request(name), timeout=TIMEOUT_S)
            code, text = refusal(
                lambda: caller.enrolment.Join(join_request(name), timeout=TIMEOUT_S)
            )
        assert code is Code.PERMISSION_DENIED
        assert "used already" in text

    def test_an_invitation_that_was_replaced_is_refused(
        self, federation: Federation, name: str
    ) -> None:
        older = federation.invite(name)
        federation.invite(name)
        with federation.caller(invited(older)) as caller:
            code, text = refusal(
                lambda: caller.enrolment.Join(join_request(name), timeout=TIMEOUT_S)
            )
        assert code is Code.PERMISSION_DENIED
        assert "not valid any more" in text

    def test_an_invitation_that_expires_on_an_open_connection_is_refused(
        self, federation: Federation, name: str
    ) -> None:
        with federation.caller(invited(federation.invite(name, hours=1))) as caller:
            refusal(lambda: caller.enrolment.Join(enrolment_pb2.JoinRequest(), timeout=TIMEOUT_S))
            with federation.clock.shifted(dt.timedelta(hours=2)):
                code, text = refusal(
                    lambda: caller.enrolment.Join(join_request(name), timeout=TIMEOUT_S)
                )
        assert code is Code.PERMISSION_DENIED
        assert "expired" in text

    def test_an_expired_invitation_is_not_served(self, federation: Federation, name: str) -> None:
        with federation.clock.shifted(dt.timedelta(hours=-2)):
            invitation = federation.invite(name, hours=1)
        with federation.caller(invited(invitation)) as caller:
            code, _ = refusal(lambda: caller.enrolment.Join(join_request(name), timeout=TIMEOUT_S))
        assert code is Code.UNAVAILABLE

    def test_the_invitation_decides_the_name_whatever_the_request_says(
        self, federation: Federation, member: RawMember, name: str
    ) -> None:
        request = join_request(member.name)
        with federation.caller(invited(federation.invite(f"{name}-new"))) as caller:
            membership = caller.enrolment.Join(request, timeout=TIMEOUT_S)
        identity = identity_of(certificate_of(membership.certificate_der))
        assert identity == Identity(role=Role.MERCHANT, name=f"{name}-new")
        assert membership.merchant == f"{name}-new"

    @pytest.mark.parametrize("csr", [b"", b"not a request", bytes(2000)])
    def test_a_request_that_is_none_is_refused_and_the_invitation_stays_good(
        self, federation: Federation, name: str, csr: bytes
    ) -> None:
        broken = enrolment_pb2.JoinRequest(protocol="1", csr_der=csr, ledger_public_key=bytes(32))
        with federation.caller(invited(federation.invite(name))) as caller:
            code, text = refusal(lambda: caller.enrolment.Join(broken, timeout=TIMEOUT_S))
            assert code is Code.INVALID_ARGUMENT
            assert "certificate request" in text
            assert caller.enrolment.Join(join_request(name), timeout=TIMEOUT_S).merchant == name

    def test_a_join_whose_reply_was_lost_is_finished_by_repeating_it(
        self, federation: Federation, name: str
    ) -> None:
        """The client's own join, killed after the server had said yes."""
        invitation = federation.invite(name)
        site = Site(federation.folder / "sites" / name)
        terms = Terms(
            epsilon_cap=1.0, delta=1e-5, base_models={}, serving_port=0, update_period_s=60.0
        )
        with lost_writes(site), pytest.raises(IsADirectoryError):
            join(site, invitation, terms, now())
        assert join(site, invitation, terms, now()).merchant == name
        with federation.caller(site.credentials()) as caller:
            assert register(caller).merchant == name


@contextlib.contextmanager
def lost_writes(site: Site) -> Iterator[None]:
    """The disk takes the key, the request and the ledger, but not the certificate."""
    blocked = site.identity / "merchant.pem"
    site.identity.mkdir(parents=True)
    blocked.mkdir()
    (blocked / "full").write_bytes(b"")
    try:
        yield
    finally:
        (blocked / "full").unlink()
        blocked.rmdir()
