"""Calls of those who were members, or whose certificate was replaced or has expired."""

import datetime as dt
import threading
import time
from collections.abc import Iterator

import pytest

from hansa.client.enrol import renew_if_due
from hansa.core.privacy.entries import Open
from hansa.core.storage import CHUNK_BYTES
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Federation,
    Server,
    wait_until,
)
from tests.integration.plane.calls import (
    SERVICES,
    Code,
    all_answers,
    answers,
    denied,
    invited,
    join_request,
    listening,
    now,
    refusal,
    register,
    renewed,
    revoke,
)
from tests.integration.raw_member import RawMember, blob

pytestmark = pytest.mark.integration


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

    def test_a_revoked_merchants_upload_is_cut(
        self, federation: Federation, member: RawMember, task: pb.Task
    ) -> None:
        """The client sends a piece, waits, and would go on for half a minute."""
        data, cut = bytes(32 * CHUNK_BYTES), threading.Event()
        header = pb.UploadHeader(task_id=task.task_id, blob=blob(data))

        def messages() -> Iterator[pb.UploadMessage]:
            yield pb.UploadMessage(header=header)
            for _ in range(31):
                yield pb.UploadMessage(chunk=common.Chunk(data=data[:CHUNK_BYTES]))
                cut.wait(1.0)

        stream = member.federation.Upload.future(messages(), timeout=TIMEOUT_S)
        wait_until(
            "the first piece",
            lambda: member.upload_status(task.task_id, header.blob).offset_bytes > 0,
        )
        revoke(federation, member)
        started = time.monotonic()
        code, _ = refusal(stream.result)
        assert code is Code.PERMISSION_DENIED
        assert time.monotonic() - started < 5.0
        cut.set()

    def test_a_replaced_certificate_is_refused(
        self, federation: Federation, member: RawMember
    ) -> None:
        fresh = renewed(member)
        with federation.caller(fresh) as caller:
            assert register(caller).merchant == member.name
        code, text = refusal(member.register)
        assert (code, text) == (
            Code.PERMISSION_DENIED,
            "this certificate was replaced by a newer one",
        )
        with federation.caller(fresh) as caller:
            assert register(caller).merchant == member.name

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
