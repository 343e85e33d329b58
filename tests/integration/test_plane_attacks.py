"""What the gRPC plane refuses: a real server with real certificates, every call made by hand."""

import contextlib
import datetime as dt
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from itertools import count

import grpc
import pytest
from cryptography import x509
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hansa.client.channel import open_channel, translated
from hansa.client.enrol import Terms, join, renew_if_due
from hansa.client.ledger_store import LedgerStore
from hansa.client.site import Site
from hansa.core.credentials import read_credentials
from hansa.core.errors import TransportError
from hansa.core.identity import (
    Credentials,
    Identity,
    Role,
    certificate_of,
    certificate_request,
    identity_of,
    issue,
    load_key,
    make_authority,
    make_key,
)
from hansa.core.invitation import Invitation
from hansa.core.privacy.entries import Entry, Open, make_entry
from hansa.core.privacy.ledger import open_ledger
from hansa.core.signing import signing_key
from hansa.core.storage import CHUNK_BYTES
from hansa.protos.v1 import enrolment_pb2, federation_pb2, operator_pb2, releases_pb2
from hansa.protos.v1 import federation_pb2 as pb
from hansa.server.uploads import MAX_UPLOAD_BYTES
from tests.fakes.entropy import SeededEntropy
from tests.fakes.toy_federation import CONTEXT
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Caller,
    Federation,
    Server,
    wait_until,
)
from tests.integration.raw_member import RawMember, blob, lines, raw_member, tasks_of

pytestmark = pytest.mark.integration

Code = grpc.StatusCode
DATA = b"an update, as far as the plane is concerned"
SERVICES = {
    "Enrolment": enrolment_pb2.DESCRIPTOR.services_by_name["Enrolment"],
    "Federation": federation_pb2.DESCRIPTOR.services_by_name["Federation"],
    "Operator": operator_pb2.DESCRIPTOR.services_by_name["Operator"],
    "Releases": releases_pb2.DESCRIPTOR.services_by_name["Releases"],
}
_numbers = count(1)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("federation")) as federation:
        yield federation


@pytest.fixture(scope="module", autouse=True)
def server(federation: Federation) -> Server:
    return federation.start_server()


@pytest.fixture
def name() -> str:
    """A merchant that no other test knows."""
    return f"merchant-{next(_numbers)}"


@pytest.fixture
def member(federation: Federation, name: str) -> Iterator[RawMember]:
    with raw_member(federation, name) as member:
        yield member


@pytest.fixture
def other(federation: Federation, name: str) -> Iterator[RawMember]:
    with raw_member(federation, f"{name}-rival") as other:
        yield other


@pytest.fixture
def task(federation: Federation, member: RawMember) -> Iterator[pb.Task]:
    with tasks_of(federation, member) as (task,):
        yield task


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


class TestTheHandshake:
    """Who may speak at all; TLS itself gives no reason, so the client adds the sentence."""

    def test_a_plaintext_caller_is_not_served(self, federation: Federation) -> None:
        with grpc.insecure_channel(federation.address) as channel:
            code, _ = refusal(lambda: _register(Caller(channel)))
        assert code is Code.UNAVAILABLE

    def test_a_caller_without_a_certificate_is_not_served(self, federation: Federation) -> None:
        with federation.caller(None) as caller:
            code, _ = refusal(lambda: _register(caller))
        assert code is Code.UNAVAILABLE

    @pytest.mark.parametrize("authority", ["Somebody else", "Hansa federation hansa"])
    def test_a_certificate_of_a_foreign_authority_is_not_served(
        self, federation: Federation, member: RawMember, authority: str
    ) -> None:
        """Neither under another name nor under the name of the real authority."""
        with federation.caller(foreign(member.name, authority)) as caller:
            code, _ = refusal(lambda: _register(caller))
        assert code is Code.UNAVAILABLE
        assert member.register().merchant == member.name

    def test_a_server_that_the_pinned_authority_did_not_certify_is_not_believed(
        self, federation: Federation, member: RawMember
    ) -> None:
        elsewhere = make_authority("Elsewhere", now=now(), valid_for=dt.timedelta(days=1))
        own = member.site.credentials()
        with federation.caller(own, root=elsewhere.certificate_pem) as caller:
            code, _ = refusal(lambda: _register(caller))
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
            _register(Caller(channel))

    def test_a_certificate_that_has_expired_is_not_served(
        self, federation: Federation, member: RawMember
    ) -> None:
        """The server's clock goes 40 days slow while it issues, so the 30 days are over by now."""
        with federation.clock.shifted(dt.timedelta(days=-40)):
            own = renewed(member)
        with federation.caller(own) as caller:
            code, _ = refusal(lambda: _register(caller))
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
            code, _ = refusal(lambda: _register(caller))
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


class TestMembership:
    """A handshake once passed proves nothing about now."""

    def test_a_revoked_merchant_is_refused_on_its_open_connection(
        self, federation: Federation, member: RawMember
    ) -> None:
        revoke(federation, member)
        services = ("Federation", "Releases")
        assert all_answers(member.caller, *services) == denied(*services)
        assert answers(member.caller, SERVICES["Enrolment"])["Renew"] is Code.PERMISSION_DENIED
        assert "not a member" in refusal(member.register)[1]

    def test_a_revoked_merchants_open_stream_is_cut_within_a_second(
        self, federation: Federation, server: Server, member: RawMember
    ) -> None:
        stream = member.subscribe()
        wait_until("the stream", lambda: listening(server, member))
        revoke(federation, member)
        started = time.monotonic()
        assert refusal(lambda: list(stream))[0] is Code.PERMISSION_DENIED
        assert time.monotonic() - started < 1.0

    def test_a_revoked_merchants_download_is_cut(
        self, federation: Federation, server: Server, member: RawMember, task: pb.Task
    ) -> None:
        sha = server.parts.blobs.put(bytes(32 * CHUNK_BYTES))
        server.parts.runs.note_context(task.run_id, sha)
        request = pb.DownloadRequest(task_id=task.task_id, sha256=sha)
        stream = member.federation.Download(request, timeout=TIMEOUT_S)
        next(stream)
        revoke(federation, member)
        rest = []
        code, _ = refusal(lambda: rest.extend(stream))
        assert code is Code.PERMISSION_DENIED
        assert len(rest) < 31

    def test_a_replaced_certificate_is_refused(
        self, federation: Federation, member: RawMember
    ) -> None:
        fresh = renewed(member)
        with federation.caller(fresh) as caller:
            assert _register(caller).merchant == member.name
        code, text = refusal(member.register)
        assert (code, text) == (
            Code.PERMISSION_DENIED,
            "this certificate was replaced by a newer one",
        )
        with federation.caller(fresh) as caller:
            assert _register(caller).merchant == member.name

    def test_renewals_whose_replies_are_lost_lock_nobody_out(self, member: RawMember) -> None:
        for _ in range(3):
            renewed(member)
        assert member.register().merchant == member.name

    def test_a_client_whose_clock_is_wrong_renews_once_and_goes_on(self, member: RawMember) -> None:
        """It takes even the new certificate for an old one; to renew in a circle helps nobody."""
        before = member.site.credentials().certificate
        wrong = now() + dt.timedelta(days=25)
        assert not renew_if_due(member.site, member.caller.channel, wrong)
        assert member.site.credentials().certificate != before

    def test_no_certificate_from_before_a_revocation_comes_back_to_life(
        self, federation: Federation, member: RawMember
    ) -> None:
        """Not even the one that a renewal had left valid until its successor was used."""
        renewed(member)
        revoke(federation, member)
        opening = member.entries()[0].body
        assert isinstance(opening, Open)
        again = join_request(member.name)
        again.ledger_public_key = bytes.fromhex(opening.public_key)
        with federation.caller(invited(federation.invite(member.name))) as caller:
            assert refusal(member.register)[0] is Code.PERMISSION_DENIED
            caller.enrolment.Join(again, timeout=TIMEOUT_S)
        assert refusal(member.register)[0] is Code.PERMISSION_DENIED

    def test_a_certificate_that_expires_on_an_open_connection_is_refused(
        self, federation: Federation, member: RawMember
    ) -> None:
        with federation.clock.shifted(dt.timedelta(days=31)):
            code, text = refusal(member.register)
        assert code is Code.PERMISSION_DENIED
        assert "expired" in text
        assert member.register().merchant == member.name


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


class TestDownload:
    def test_a_task_gives_its_own_content_and_context_only(
        self, server: Server, member: RawMember, task: pb.Task
    ) -> None:
        assert member.download(task.task_id, task.context.sha256) == CONTEXT.to_bytes()
        content = member.download(task.task_id, task.content.sha256)
        assert len(content) == task.content.size_bytes
        assert member.download(task.task_id, task.content.sha256, 7) == content[7:]
        stored_elsewhere = server.parts.blobs.put(b"somebody's update")
        code, text = refusal(lambda: member.download(task.task_id, stored_elsewhere))
        assert (code, text) == (Code.NOT_FOUND, "no task of this merchant names that blob")

    def test_anothers_task_gives_nothing(
        self, federation: Federation, member: RawMember, other: RawMember
    ) -> None:
        with tasks_of(federation, member, other) as (_, theirs):
            code, _ = refusal(lambda: member.download(theirs.task_id, theirs.content.sha256))
        assert code is Code.NOT_FOUND

    @pytest.mark.parametrize("sha", ["", "../../hansa.db", "A" * 64, "0" * 63])
    def test_a_name_that_is_no_digest_is_refused(
        self, member: RawMember, task: pb.Task, sha: str
    ) -> None:
        code, _ = refusal(lambda: member.download(task.task_id, sha))
        assert code is Code.INVALID_ARGUMENT

    def test_an_offset_beyond_the_end_is_refused(self, member: RawMember, task: pb.Task) -> None:
        beyond = task.content.size_bytes + 1
        code, _ = refusal(lambda: member.download(task.task_id, task.content.sha256, beyond))
        assert code is Code.INVALID_ARGUMENT


class TestUpload:
    def test_anothers_task_takes_nothing(
        self, federation: Federation, member: RawMember, other: RawMember
    ) -> None:
        with tasks_of(federation, member, other) as (_, theirs):
            for call in (
                lambda: member.upload(theirs.task_id, DATA),
                lambda: member.upload_status(theirs.task_id, blob(DATA)),
            ):
                code, text = refusal(call)
                assert code is Code.NOT_FOUND
                assert text == "there is no such task for this merchant"
            reply = member.complete(theirs.task_id, DATA, b"")
            assert reply.acknowledgement == pb.ACKNOWLEDGEMENT_UNKNOWN
            assert member.refuse(theirs.task_id).acknowledgement == pb.ACKNOWLEDGEMENT_UNKNOWN
            assert other.upload_status(theirs.task_id, blob(DATA)).offset_bytes == 0

    def test_more_bytes_than_promised_are_refused(self, member: RawMember, task: pb.Task) -> None:
        promised = blob(DATA)
        promised.size_bytes -= 1
        code, text = refusal(lambda: member.upload(task.task_id, DATA, claimed=promised))
        assert code is Code.INVALID_ARGUMENT
        assert "beyond the promised size" in text

    @pytest.mark.parametrize("size", [0, MAX_UPLOAD_BYTES + 1])
    def test_an_impossible_size_is_refused(
        self, member: RawMember, task: pb.Task, size: int
    ) -> None:
        claimed = blob(DATA)
        claimed.size_bytes = size
        code, _ = refusal(lambda: member.upload(task.task_id, DATA, claimed=claimed))
        assert code is Code.INVALID_ARGUMENT

    def test_bytes_of_another_digest_are_refused_and_forgotten(
        self, member: RawMember, task: pb.Task
    ) -> None:
        claimed = blob(DATA)
        code, text = refusal(lambda: member.upload(task.task_id, bytes(len(DATA)), claimed=claimed))
        assert code is Code.INVALID_ARGUMENT
        assert "promised digest" in text
        assert member.upload_status(task.task_id, claimed).offset_bytes == 0
        assert member.upload(task.task_id, DATA).complete

    def test_a_stream_that_does_not_go_on_where_it_stopped_is_told_where(
        self, member: RawMember, task: pb.Task
    ) -> None:
        member.upload(task.task_id, DATA[:9], claimed=blob(DATA))
        code, text = refusal(
            lambda: member.upload(task.task_id, DATA[5:], claimed=blob(DATA), offset=5)
        )
        assert (code, text) == (Code.ALREADY_EXISTS, "the upload must go on at byte 9")
        assert member.upload(task.task_id, DATA[9:], claimed=blob(DATA), offset=9).complete

    def test_a_stream_without_its_header_is_refused(self, member: RawMember) -> None:
        for messages in ([], [pb.UploadMessage()]):
            code, text = refusal(
                lambda sent=messages: member.federation.Upload(iter(sent), timeout=TIMEOUT_S)
            )
            assert (code, text) == (Code.INVALID_ARGUMENT, "an upload begins with its header")


class TestComplete:
    def test_a_result_without_its_blob_is_asked_for_it(
        self, member: RawMember, task: pb.Task
    ) -> None:
        reply = member.complete(task.task_id, DATA, member.book(task, DATA))
        assert reply.acknowledgement == pb.ACKNOWLEDGEMENT_MISSING_BLOB

    def test_a_repeated_result_is_harmless_and_a_different_one_is_a_conflict(
        self, federation: Federation, member: RawMember, other: RawMember
    ) -> None:
        with tasks_of(federation, member, other) as (task, _):
            member.upload(task.task_id, DATA)
            entries = member.book(task, DATA)
            outcomes = [
                member.complete(task.task_id, DATA, entries).acknowledgement,
                member.complete(task.task_id, DATA, entries).acknowledgement,
                member.refuse(task.task_id).acknowledgement,
            ]
        assert outcomes == [
            pb.ACKNOWLEDGEMENT_ACCEPTED,
            pb.ACKNOWLEDGEMENT_DUPLICATE,
            pb.ACKNOWLEDGEMENT_CONFLICT,
        ]

    def test_other_bytes_for_a_closed_task_are_refused(
        self, federation: Federation, member: RawMember, other: RawMember
    ) -> None:
        with tasks_of(federation, member, other) as (task, _):
            for data in (DATA, DATA[::-1]):
                member.upload(task.task_id, data)
            entries = member.book(task, DATA)
            member.complete(task.task_id, DATA, entries)
            code, text = refusal(lambda: member.complete(task.task_id, DATA[::-1], entries))
        assert code is Code.FAILED_PRECONDITION
        assert "commit" in text

    def test_a_result_for_a_closed_round_is_late(
        self, federation: Federation, member: RawMember
    ) -> None:
        with tasks_of(federation, member) as (task,):
            member.upload(task.task_id, DATA)
            entries = member.book(task, DATA)
        reply = member.complete(task.task_id, DATA, entries)
        assert reply.acknowledgement == pb.ACKNOWLEDGEMENT_LATE

    def test_a_result_for_a_task_that_nobody_made_is_unknown(self, member: RawMember) -> None:
        reply = member.complete(f"no-run/1/train/{member.name}", DATA, b"")
        assert reply.acknowledgement == pb.ACKNOWLEDGEMENT_UNKNOWN

    def test_an_older_session_is_fenced_off(self, member: RawMember, task: pb.Task) -> None:
        older, stream = member.session, member.subscribe()
        member.register()
        beat = pb.HeartbeatRequest(session=older)
        assert member.federation.Heartbeat(beat, timeout=TIMEOUT_S).fenced
        reply = member.complete(task.task_id, DATA, b"", session=older)
        assert reply.acknowledgement == pb.ACKNOWLEDGEMENT_FENCED
        code, text = refusal(lambda: list(stream))
        assert (code, text) == (
            Code.ALREADY_EXISTS,
            "a newer session of this merchant took over",
        )


class TestTheLedger:
    """The server's copy is the auditor's evidence: nothing in it is edited, dropped or forged."""

    def test_an_update_that_was_not_paid_for_is_refused(
        self, member: RawMember, task: pb.Task
    ) -> None:
        member.upload(task.task_id, DATA)
        code, text = refusal(lambda: member.complete(task.task_id, DATA, lines(member.entries())))
        assert code is Code.FAILED_PRECONDITION
        assert "not reserved" in text

    def test_an_update_that_was_paid_for_in_part_is_refused(
        self, member: RawMember, task: pb.Task
    ) -> None:
        """The ledger books twice the noise of the plan, which costs half as much."""
        member.upload(task.task_id, DATA)
        entries = member.book(task, DATA, noise=40.0)
        code, text = refusal(lambda: member.complete(task.task_id, DATA, entries))
        assert code is Code.FAILED_PRECONDITION
        assert "less than the plan costs" in text

    def test_an_update_other_than_the_committed_one_is_refused(
        self, member: RawMember, task: pb.Task
    ) -> None:
        member.upload(task.task_id, DATA)
        entries = member.book(task, b"other bytes")
        code, text = refusal(lambda: member.complete(task.task_id, DATA, entries))
        assert code is Code.FAILED_PRECONDITION
        assert "does not commit these bytes" in text

    def test_an_edited_entry_is_refused(self, member: RawMember, task: pb.Task) -> None:
        honest = member.book(task, DATA)
        edited = honest.replace(b'"steps":1', b'"steps":2')
        assert edited != honest
        code, text = refusal(lambda: member.complete(task.task_id, DATA, edited))
        assert code is Code.FAILED_PRECONDITION
        assert "ledger entry 1" in text
        assert "edited" in text

    def test_reordered_entries_are_refused(self, member: RawMember, task: pb.Task) -> None:
        member.book(task, DATA)
        first, second, third = member.entries()
        code, text = refusal(
            lambda: member.complete(task.task_id, DATA, lines([first, third, second]))
        )
        assert code is Code.FAILED_PRECONDITION
        assert "reordered" in text

    def test_a_gap_is_refused(self, member: RawMember, task: pb.Task) -> None:
        member.book(task, DATA)
        first, _, third = member.entries()
        code, text = refusal(lambda: member.complete(task.task_id, DATA, lines([first, third])))
        assert code is Code.FAILED_PRECONDITION
        assert "dropped" in text

    def test_a_book_under_a_foreign_key_is_refused(self, member: RawMember, task: pb.Task) -> None:
        code, text = refusal(lambda: member.complete(task.task_id, DATA, lines(foreign_book())))
        assert code is Code.FAILED_PRECONDITION
        assert "is kept under key" in text

    def test_a_rewritten_book_under_the_right_key_is_refused(
        self, member: RawMember, task: pb.Task
    ) -> None:
        """The merchant itself forks its history after the server has seen the first branch."""
        member.upload(task.task_id, DATA)
        member.complete(task.task_id, DATA, member.book(task, DATA))
        code, text = refusal(lambda: member.complete(task.task_id, DATA, lines(forked(member))))
        assert code is Code.FAILED_PRECONDITION
        assert "differs from the one received before" in text

    def test_a_refused_book_leaves_the_copy_as_it_was(
        self, member: RawMember, task: pb.Task
    ) -> None:
        honest = member.book(task, DATA)
        refusal(lambda: member.complete(task.task_id, DATA, honest.replace(b"steps", b"stepz")))
        assert member.register().next_ledger_position == 0
        member.upload(task.task_id, DATA)
        reply = member.complete(task.task_id, DATA, honest)
        assert reply.acknowledgement == pb.ACKNOWLEDGEMENT_ACCEPTED
        assert reply.next_ledger_position == 3

    def test_too_many_entries_at_once_are_refused(self, member: RawMember, task: pb.Task) -> None:
        code, text = refusal(lambda: member.complete(task.task_id, DATA, bytes((3 << 20) + 1)))
        assert code is Code.FAILED_PRECONDITION
        assert "smaller portions" in text


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
            assert _register(caller).merchant == name


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _register(caller: Caller) -> pb.Session:
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


def foreign_book() -> tuple[Entry, ...]:
    return open_ledger(
        cap_epsilon=8.0,
        delta=1e-5,
        key=signing_key(bytes(32)),
        entropy=SeededEntropy(1),
        now=now(),
    ).entries


def forked(member: RawMember) -> list[Entry]:
    """A history that never happened, signed by the merchant's own key."""
    with LedgerStore.open(member.site.ledger) as store:
        key = store.ledger._key
        first = store.ledger.entries[0]
    assert key is not None
    opening = first.body.model_copy(update={"cap_epsilon": 9.0})
    return [make_entry(opening, after=None, now=now(), key=key)]


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
