"""Blobs down and up: what a merchant may fetch and send, and in which form."""

import pytest

from hansa.core.storage import CHUNK_BYTES
from hansa.protos.v1 import federation_pb2 as pb
from hansa.server.uploads import MAX_UPLOAD_BYTES
from tests.fakes.toy_federation import CONTEXT
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Federation,
    Server,
)
from tests.integration.plane.calls import (
    DATA,
    Code,
    refusal,
)
from tests.integration.raw_member import RawMember, blob, tasks_of

pytestmark = pytest.mark.integration


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

    def test_anything_but_data_after_the_header_is_refused(
        self, member: RawMember, task: pb.Task
    ) -> None:
        header = pb.UploadHeader(task_id=task.task_id, blob=blob(DATA))
        messages = [pb.UploadMessage(header=header)] * 2
        code, text = refusal(lambda: member.federation.Upload(iter(messages), timeout=TIMEOUT_S))
        assert (code, text) == (
            Code.INVALID_ARGUMENT,
            "after its header an upload holds nothing but data",
        )

    def test_a_message_that_is_none_is_refused(self, member: RawMember, task: pb.Task) -> None:
        call = member.caller.channel.stream_unary("/hansa.v1.Federation/Upload")
        code, _ = refusal(lambda: call(iter([b"\x12\xff\xff"]), timeout=TIMEOUT_S))
        assert code not in (Code.OK, Code.UNAVAILABLE)

    def test_a_piece_over_one_mebibyte_is_refused(self, member: RawMember, task: pb.Task) -> None:
        code, text = refusal(lambda: member.upload(task.task_id, bytes(CHUNK_BYTES + 1)))
        assert code is Code.INVALID_ARGUMENT
        assert "larger than 1 MiB" in text

    def test_other_bytes_for_the_same_task_take_the_place_of_what_was_left(
        self, member: RawMember, task: pb.Task
    ) -> None:
        """A merchant cannot fill the disk with one task."""
        member.upload(task.task_id, DATA[:9], claimed=blob(DATA))
        member.upload(task.task_id, DATA[::-1][:5], claimed=blob(DATA[::-1]))
        assert member.upload_status(task.task_id, blob(DATA)).offset_bytes == 0
        assert member.upload_status(task.task_id, blob(DATA[::-1])).offset_bytes == 5
