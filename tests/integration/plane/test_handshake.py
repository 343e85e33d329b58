"""Who may speak at all: a real server with real certificates, every call made by hand."""

import datetime as dt
import socket
import ssl

import grpc
import pytest

from hansa.client.channel import open_channel, translated
from hansa.core.errors import TransportError
from hansa.core.identity import (
    make_authority,
)
from hansa.protos.v1 import federation_pb2 as pb
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Caller,
    Federation,
)
from tests.integration.plane.calls import (
    Code,
    foreign,
    now,
    refusal,
    register,
    renewed,
)
from tests.integration.raw_member import RawMember

pytestmark = pytest.mark.integration


class TestTheHandshake:
    """Who may speak at all; TLS itself gives no reason, so the client adds the sentence."""

    def test_a_plaintext_caller_is_not_served(self, federation: Federation) -> None:
        with grpc.insecure_channel(federation.address) as channel:
            code, _ = refusal(lambda: register(Caller(channel)))
        assert code is Code.UNAVAILABLE

    def test_a_caller_without_a_certificate_is_not_served(self, federation: Federation) -> None:
        with federation.caller(None) as caller:
            code, _ = refusal(lambda: register(caller))
        assert code is Code.UNAVAILABLE

    @pytest.mark.parametrize("authority", ["Somebody else", "Hansa federation hansa"])
    def test_a_certificate_of_a_foreign_authority_is_not_served(
        self, federation: Federation, member: RawMember, authority: str
    ) -> None:
        """Neither under another name nor under the name of the real authority."""
        with federation.caller(foreign(member.name, authority)) as caller:
            code, _ = refusal(lambda: register(caller))
        assert code is Code.UNAVAILABLE
        assert member.register().merchant == member.name

    def test_a_server_that_the_pinned_authority_did_not_certify_is_not_believed(
        self, federation: Federation, member: RawMember
    ) -> None:
        elsewhere = make_authority("Elsewhere", now=now(), valid_for=dt.timedelta(days=1))
        own = member.site.credentials()
        with federation.caller(own, root=elsewhere.certificate_pem) as caller:
            code, _ = refusal(lambda: register(caller))
        assert code is Code.UNAVAILABLE

    def test_the_client_says_in_a_sentence_what_may_be_wrong(
        self, federation: Federation, member: RawMember
    ) -> None:
        stranger = foreign(member.name, "Somebody else")
        channel = open_channel(
            federation.address,
            authority_pem=member.site.authority_pem(),
            key_pem=stranger.key_pem,
            certificate_pem=stranger.certificate_pem,
        )
        expected = pytest.raises(TransportError, match="certificate is still valid")
        with channel, expected, translated(federation.address):
            register(Caller(channel))

    def test_a_certificate_that_has_expired_is_not_served(
        self, federation: Federation, member: RawMember
    ) -> None:
        """The server's clock goes 40 days slow while it issues, so the 30 days are over by now."""
        with federation.clock.shifted(dt.timedelta(days=-40)):
            own = renewed(member)
        with federation.caller(own) as caller:
            code, _ = refusal(lambda: register(caller))
        assert code is Code.UNAVAILABLE

    def test_a_tls_1_2_caller_gets_no_answer_but_a_refusal(
        self, federation: Federation, member: RawMember
    ) -> None:
        """gRPC cannot be told to refuse the handshake itself: BoringSSL completes it.

        Proven is that a call over such a connection is refused before anything is done; the same
        bytes over TLS 1.3 are answered.
        """
        modern = http2_register(federation, member, ssl.TLSVersion.TLSv1_3, member.name.encode())
        assert member.name.encode() in modern
        old = http2_register(federation, member, ssl.TLSVersion.TLSv1_2, b"grpc-message")
        assert b"only TLS 1.3 is spoken here" in old
        assert member.name.encode() not in old


def http2_register(
    federation: Federation, member: RawMember, version: ssl.TLSVersion, until: bytes
) -> bytes:
    """The bytes that answer a Register written by hand, over exactly one version of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(cadata=member.site.authority_pem().decode())
    identity = member.site.identity
    context.load_cert_chain(identity / "merchant.pem", identity / "merchant.key.pem")
    context.set_alpn_protocols(["h2"])
    host, _, port = federation.address.partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname="hansa-server") as line,
    ):
        assert line.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        line.sendall(_http2(pb.RegisterRequest(protocol="1").SerializeToString()))
        answer = b""
        while until not in answer and (piece := line.recv(4096)):
            answer += piece
    return answer


def _http2(message: bytes) -> bytes:
    """One gRPC request in HTTP/2 frames: preface, settings, headers, data."""
    headers = {
        ":method": "POST",
        ":scheme": "https",
        ":path": "/hansa.v1.Federation/Register",
        ":authority": "hansa-server",
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": "10S",
    }
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    body = b"\0" + len(message).to_bytes(4, "big") + message
    frames = _frame(4, 0, 0, b"") + _frame(1, 4, 1, block) + _frame(0, 1, 1, body)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload
