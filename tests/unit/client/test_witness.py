"""What a merchant's witness notices: every way in which a log may be untrue to what it was."""

import datetime as dt
import logging

import pytest

from hansa.client.witness import MAX_WANTED, MERGE_DELAY, Witness
from hansa.client.witness_memory import MAX_KEPT
from hansa.core.errors import TransparencyError
from hansa.core.privacy.entries import Entry
from hansa.core.privacy.ledger import open_ledger
from hansa.core.signing import key_id_of, signing_key
from hansa.core.transparency.checkpoint import SignedCheckpoint
from tests.fakes.entropy import SeededEntropy
from tests.fakes.log_server import MERCHANT, LogServer
from tests.fakes.log_world import NOW, PLAN_KEY


@pytest.fixture
def witness(tmp_path) -> Witness:
    return again(tmp_path)


def again(folder) -> Witness:
    """The witness of the same site after a restart."""
    return Witness(folder / "log", merchant=MERCHANT, plan_key=key_id_of(PLAN_KEY))


def ledger_of(count: int) -> list[Entry]:
    key = signing_key(b"h" * 32)
    ledger = open_ledger(cap_epsilon=1.0, delta=1e-5, key=key, entropy=SeededEntropy(), now=NOW)
    for number in range(1, count):
        ledger.raise_cap(1.0 + number, now=NOW)
    return list(ledger.entries)


def look(
    witness: Witness, server: LogServer, note: bytes | None = None,
    entries: list[Entry] | None = None, now: dt.datetime = NOW,
) -> None:  # fmt: skip
    shown = server.note() if note is None else note
    own = entries or []
    witness.check(shown, server, entries=own, acknowledged=len(own), now=now)


def grown(count: int) -> LogServer:
    server = LogServer()
    server.add(*(b'{"kind":"later","number":%d}' % number for number in range(count)))
    return server


def test_a_log_that_grows_is_believed_with_one_question_for_each_growth(witness) -> None:
    server = grown(3)
    look(witness, server)
    for number in range(5):
        server.add(b'{"kind":"more","number":%d}' % number)
        server.calls = 0
        look(witness, server)
        assert server.calls == 1
    assert len(witness.book().notes) == 6


def test_the_same_checkpoint_costs_no_question(witness) -> None:
    server = grown(3)
    look(witness, server)
    server.calls = 0
    for _ in range(10):
        look(witness, server)
    assert server.calls == 0


def test_what_was_seen_outlives_a_restart(witness, tmp_path) -> None:
    server = grown(5)
    look(witness, server)
    server.bodies[2] = b'{"kind":"edited"}'
    server.add(b'{"kind":"more"}')
    with pytest.raises(TransparencyError, match="an entry before 6 was changed"):
        look(again(tmp_path), server)


class TestAttacks:
    """Each is refused, and every later task too, until somebody decides otherwise."""

    def refused(self, witness: Witness, server: LogServer, words: str, **more) -> None:
        with pytest.raises(TransparencyError, match=words):
            look(witness, server, **more)
        with pytest.raises(TransparencyError, match="cannot be trusted since"):
            look(witness, grown(1))
        assert witness.memory.alarm() is not None

    def test_an_edited_entry(self, witness) -> None:
        server = grown(5)
        look(witness, server)
        server.bodies[1] = b'{"kind":"edited"}'
        server.add(b'{"kind":"more"}')
        self.refused(witness, server, "an entry before 6 was changed")

    def test_a_dropped_entry(self, witness) -> None:
        server = grown(5)
        look(witness, server)
        del server.bodies[1]
        server.add(b'{"kind":"more"}', b'{"kind":"more still"}')
        self.refused(witness, server, "an entry before 6 was changed")

    def test_reordered_entries(self, witness) -> None:
        server = grown(5)
        look(witness, server)
        server.bodies[1:3] = reversed(server.bodies[1:3])
        server.add(b'{"kind":"more"}')
        self.refused(witness, server, "an entry before 6 was changed")

    def test_a_forked_log_of_the_same_size(self, witness) -> None:
        server = grown(5)
        look(witness, server)
        server.bodies[-1] = b'{"kind":"forked"}'
        self.refused(witness, server, "two logs of 6 entries")

    def test_a_truncated_log_that_grew_again(self, witness) -> None:
        server = grown(5)
        look(witness, server)
        del server.bodies[3:]
        server.add(*(b'{"kind":"other","number":%d}' % number for number in range(9)))
        self.refused(witness, server, "an entry before 6 was changed")

    def test_a_checkpoint_rolled_back(self, witness) -> None:
        server = grown(5)
        look(witness, server)
        del server.bodies[4:]
        self.refused(witness, server, "the log has 4 entries, and had 6 before")

    def test_an_older_view_of_another_log(self, witness) -> None:
        server, other = grown(5), grown(5)
        look(witness, server)
        other.bodies[1] = b'{"kind":"forked"}'
        self.refused(witness, server, "does not hold", note=other.note(4))

    def test_a_forged_signature(self, witness) -> None:
        server = grown(5)
        look(witness, server)
        server.key = signing_key(b"x" * 32)
        self.refused(witness, server, "signed by key")

    def test_a_note_with_a_flipped_bit(self, witness) -> None:
        server = grown(5)
        look(witness, server)
        note = server.note().replace(b"time 2026", b"time 2027")
        self.refused(witness, server, "signature", note=note)

    def test_something_that_is_no_checkpoint(self, witness) -> None:
        self.refused(witness, grown(1), "not a checkpoint", note=b"\xff\x00 nonsense")

    def test_another_federations_log(self, witness) -> None:
        server = grown(5)
        look(witness, server)
        server.add(b'{"kind":"more"}')
        self.refused(witness, server, "another log", note=server.note(origin="hansa/log/elsewhere"))

    def test_two_servers_that_show_different_logs(self, witness) -> None:
        one, other = grown(5), grown(5)
        other.bodies[3] = b'{"kind":"forked"}'
        other.add(b'{"kind":"more"}')
        look(witness, one)
        self.refused(witness, other, "an entry before 6 was changed")

    def test_a_server_that_cannot_prove_its_growth(self, witness) -> None:
        server = grown(5)
        look(witness, server)
        server.add(b'{"kind":"more"}')
        note = server.note()
        del server.bodies[3:]
        self.refused(witness, server, "cannot prove", note=note)


def test_a_server_that_lags_behind_another_one_is_no_attack(witness) -> None:
    server = grown(8)
    look(witness, server)
    look(witness, server, note=server.note(5))
    assert witness.memory.seen().note == server.note().decode()
    assert witness.memory.alarm() is None


def test_both_sides_of_a_fork_are_kept_as_the_proof(witness) -> None:
    server = grown(5)
    look(witness, server)
    first = server.note()
    server.bodies[-1] = b'{"kind":"forked"}'
    with pytest.raises(TransparencyError):
        look(witness, server)
    roots = {
        SignedCheckpoint.parse(note.encode(), "it").verify(key_id=key_id_of(PLAN_KEY)).root
        for note in witness.book().notes
    }
    assert len(roots) == 2
    assert first.decode() in witness.book().notes


def test_a_server_without_a_log_works_and_is_spoken_of_once(witness, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            look(witness, LogServer(), note=b"")
    assert caplog.text.count("keeps no transparency log") == 1


def test_a_server_that_ceases_to_show_its_log_gets_no_work(witness) -> None:
    server = grown(1)
    look(witness, server)
    with pytest.raises(TransparencyError, match="shows its log no longer"):
        look(witness, server, note=b"")


class TestOwnEntries:
    def test_they_are_seen_in_the_log_with_the_growth(self, witness) -> None:
        server, own = grown(1), ledger_of(3)
        look(witness, server)
        for entry in own:
            server.log_entry(entry)
        server.calls = 0
        look(witness, server, entries=own)
        assert (witness.memory.seen().own, server.calls) == (3, 1)

    def test_a_moment_of_delay_is_no_fault(self, witness) -> None:
        server, own = grown(1), ledger_of(2)
        look(witness, server)
        server.add(b'{"kind":"more"}')
        look(witness, server, entries=own)
        assert witness.memory.seen().own == 0
        for entry in own:
            server.log_entry(entry)
        look(witness, server, entries=own, now=NOW + 2 * MERGE_DELAY)
        assert witness.memory.seen().own == 2

    def test_an_entry_that_stays_away_is_withheld(self, witness) -> None:
        server, own = grown(1), ledger_of(2)
        server.log_entry(own[0])
        look(witness, server, entries=own)
        server.add(b'{"kind":"more"}')
        with pytest.raises(TransparencyError, match="entry 1 of this site's ledger is withheld"):
            look(witness, server, entries=own, now=NOW + 2 * MERGE_DELAY)

    def test_a_log_that_stands_still_withholds_too(self, witness) -> None:
        server, own = grown(1), ledger_of(1)
        look(witness, server)
        look(witness, server, entries=own)
        with pytest.raises(TransparencyError, match="withheld"):
            look(witness, server, entries=own, now=NOW + 2 * MERGE_DELAY)

    def test_an_entry_under_another_hash_does_not_count(self, witness) -> None:
        server, own = grown(1), ledger_of(2)
        server.log_entry(own[0])
        server.log_entry(own[1].model_copy(update={"hash": "0" * 64}))
        look(witness, server, entries=own)
        assert witness.memory.seen().own == 1

    def test_a_long_history_is_looked_through_in_portions(self, witness) -> None:
        server, own = grown(1), ledger_of(MAX_WANTED + 5)
        for entry in own:
            server.log_entry(entry)
        look(witness, server, entries=own)
        assert witness.memory.seen().own == MAX_WANTED
        server.add(b'{"kind":"more"}')
        look(witness, server, entries=own)
        assert witness.memory.seen().own == len(own)

    def test_what_the_server_has_not_acknowledged_is_not_missed(self, witness) -> None:
        server, own = grown(1), ledger_of(2)
        witness.check(server.note(), server, entries=own, acknowledged=0, now=NOW)
        server.add(b'{"kind":"more"}')
        later = NOW + 9 * MERGE_DELAY
        witness.check(server.note(), server, entries=own, acknowledged=0, now=later)
        assert witness.memory.seen().waiting_since is None


def test_a_reset_keeps_the_proof_aside_and_believes_the_next_checkpoint(witness) -> None:
    server = grown(5)
    look(witness, server)
    del server.bodies[3:]
    with pytest.raises(TransparencyError):
        look(witness, server)
    aside = witness.reset(NOW)
    assert aside is not None
    assert {path.name for path in aside.iterdir()} == {
        "alarm.json", "checkpoints.json", "seen.json",
    }  # fmt: skip
    look(witness, server)
    assert witness.memory.alarm() is None
    assert len(witness.book().notes) == 1


def test_checkpoints_are_thinned_out_and_the_first_one_stays(witness, monkeypatch) -> None:
    monkeypatch.setattr("hansa.client.witness_memory.MAX_KEPT", 8)
    server = grown(1)
    notes = []
    for number in range(20):
        server.add(b'{"kind":"more","number":%d}' % number)
        notes.append(server.note().decode())
        look(witness, server)
    kept = witness.book().notes
    assert len(kept) <= 8
    assert kept[0] == notes[0]
    assert list(kept[-4:]) == notes[-4:]
    assert MAX_KEPT == 4096
