"""Results and the ledger entries that pay for them."""

import pytest

from hansa.client.ledger_store import LedgerStore
from hansa.core.canonical import sha256_hex
from hansa.core.privacy.entries import Entry, make_entry
from hansa.core.privacy.ledger import open_ledger
from hansa.core.signing import signing_key
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from hansa.server.uploads import MAX_UPLOAD_BYTES
from tests.fakes.entropy import SeededEntropy
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Federation,
)
from tests.integration.plane.calls import (
    DATA,
    Code,
    now,
    refusal,
)
from tests.integration.raw_member import RawMember, lines, tasks_of

pytestmark = pytest.mark.integration


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

    def test_a_result_that_is_too_large_is_late_too_once_its_round_was_closed(
        self, federation: Federation, member: RawMember
    ) -> None:
        """Whoever asks what became of it must hear that it may be dropped."""
        with tasks_of(federation, member) as (task,):
            content = common.BlobRef(sha256=sha256_hex(DATA), size_bytes=MAX_UPLOAD_BYTES + 1)
            request = pb.CompleteRequest(
                task_id=task.task_id, session=member.session, content=content
            )
            code, _ = refusal(lambda: member.federation.Complete(request, timeout=TIMEOUT_S))
            assert code is Code.INVALID_ARGUMENT
        reply = member.federation.Complete(request, timeout=TIMEOUT_S)
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
        assert "ledger entry 2" in text
        assert "edited" in text

    def test_reordered_entries_are_refused(self, member: RawMember, task: pb.Task) -> None:
        member.book(task, DATA)
        first, terms, second, third = member.entries()
        code, text = refusal(
            lambda: member.complete(task.task_id, DATA, lines([first, terms, third, second]))
        )
        assert code is Code.FAILED_PRECONDITION
        assert "reordered" in text

    def test_a_gap_is_refused(self, member: RawMember, task: pb.Task) -> None:
        member.book(task, DATA)
        first, terms, _, third = member.entries()
        left = lines([first, terms, third])
        code, text = refusal(lambda: member.complete(task.task_id, DATA, left))
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
        assert reply.next_ledger_position == 4

    def test_too_many_entries_at_once_are_refused(self, member: RawMember, task: pb.Task) -> None:
        code, text = refusal(lambda: member.complete(task.task_id, DATA, bytes((3 << 20) + 1)))
        assert code is Code.FAILED_PRECONDITION
        assert "smaller portions" in text


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
