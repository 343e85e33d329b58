"""Several people's copies against each other, and in which releases a merchant is."""

import pytest

from hansa.audit.compare import compare
from hansa.audit.copies import read_copies
from hansa.audit.log_view import LogView
from hansa.core.canonical import canonical_json
from hansa.core.errors import HansaError, InvalidInputError
from hansa.core.evidence import write_pack
from hansa.core.signing import key_id_of
from hansa.core.transparency.checkpoint import CheckpointBook
from hansa.core.transparency.holdings import holdings
from hansa.core.transparency.leaves import AggregateLeaf, ReleaseLeaf
from tests.fakes.audit_world import NOW, PLAN_KEY, AuditWorld, checkpoint_of


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture
def pack(world, tmp_path):
    path = tmp_path / "run.pack"
    path.write_bytes(write_pack(world.logged(), PLAN_KEY))
    return path


def export_of(path, notes, witness="harbour"):
    book = CheckpointBook(
        witness=witness,
        plan_key=key_id_of(PLAN_KEY),
        notes=tuple(note.decode() for note in notes),
    )
    path.write_bytes(canonical_json(book.model_dump(mode="json")))
    return path


def faults(*paths, **more):
    checks = compare(read_copies(paths), **more)
    return [f"{one.name}: {one.detail}" for one in checks if not one.passed]


def forked(world, at=8) -> list[bytes]:
    leaves = world.leaves()
    hash_ = leaves[at].split(b'"hash":"')[1][:64]
    leaves[at] = leaves[at].replace(hash_, b"0" * 64)
    return leaves


def test_honest_copies_agree(world, pack, tmp_path) -> None:
    notes = [checkpoint_of(world.leaves(), size) for size in (1, 5, 12)]
    book = tmp_path / "ledger.jsonl"
    book.write_bytes(b"".join(one.to_bytes() + b"\n" for one in world.ledgers["harbour"].entries))
    note = tmp_path / "checkpoint.txt"
    note.write_bytes(notes[2])
    export = export_of(tmp_path / "seen.json", notes)
    assert faults(pack, export, book, note, plan_key=key_id_of(PLAN_KEY)) == []


def test_two_logs_that_were_shown_differ_at_a_named_entry(world, pack, tmp_path) -> None:
    other = tmp_path / "other.pack"
    other.write_bytes(write_pack(world.logged(log=world.log(forked(world))), PLAN_KEY))
    (fault,) = [one for one in faults(pack, other) if one.startswith("logs are one")]
    assert "log entry 8: two different entries were shown" in fault
    assert '"position":4' in fault


def test_a_merchant_that_saw_another_log_names_the_last_entry_they_share(
    world, pack, tmp_path
) -> None:
    notes = [
        checkpoint_of(world.leaves(), 6),
        checkpoint_of(forked(world), 12),
    ]
    (fault,) = faults(pack, export_of(tmp_path / "seen.json", notes))
    assert "log entry 12: an entry before it is not the one that others saw" in fault
    assert fault.endswith("up to entry 6 they agree")


def test_a_truncated_log_is_shorter_than_what_a_merchant_saw(world, tmp_path) -> None:
    leaves = world.leaves()
    short = tmp_path / "short.pack"
    short.write_bytes(write_pack(world.logged(log=world.log(leaves[:-3])), PLAN_KEY))
    (fault,) = faults(short, export_of(tmp_path / "seen.json", [checkpoint_of(leaves)]))
    assert f"log entry {len(leaves) - 3}: the log ends before it" in fault


def test_two_checkpoints_of_one_size_prove_a_fork_without_any_log(world, tmp_path) -> None:
    one = export_of(tmp_path / "a.json", [checkpoint_of(world.leaves(), 12)])
    other = export_of(tmp_path / "b.json", [checkpoint_of(forked(world), 12)], "market")
    assert faults(one, other) == ["logs are one: log entry 12: two logs of 12 entries were shown"]


def test_a_merchants_own_ledger_against_the_operators_log(world, pack, tmp_path) -> None:
    book = tmp_path / "ledger.jsonl"
    own = world.ledger("market", cap=9.0)
    book.write_bytes(b"".join(one.to_bytes() + b"\n" for one in own.entries))
    (fault,) = [one for one in faults(pack, book) if "ledger is in the log" in one]
    assert "ledger entry 0 of market: the log holds another one at log entry 11" in fault


def test_a_checkpoint_of_another_key_is_refused(world, pack, tmp_path) -> None:
    export = export_of(tmp_path / "seen.json", [checkpoint_of(world.leaves(), 5)])
    assert all("not by" in one for one in faults(pack, export, plan_key="0" * 64))


def test_one_copy_alone_is_nothing_to_compare(world, tmp_path) -> None:
    export = export_of(tmp_path / "seen.json", [checkpoint_of(world.leaves(), 5)])
    with pytest.raises(InvalidInputError, match="nothing to compare"):
        compare(read_copies([export]))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x00\xff", b"hansa/log/x\n1\n", b"{}\n"])
def test_a_file_of_another_kind_is_refused_with_a_sentence(tmp_path, content) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(HansaError):
        read_copies([path])


class TestWho:
    def log(self, world, *more) -> LogView:
        leaves = [*world.leaves(), *(leaf.to_bytes() for leaf in more)]
        return LogView.of(world.log(leaves), key_id=None)

    def release(self, version, run, **more) -> ReleaseLeaf:
        return ReleaseLeaf(
            channel="stable",
            version=version,
            run=run,
            manifest_sha256=f"{version:064x}",
            created=f"2026-12-{version:02d}T00:00:00.000000Z",
            **more,
        )

    def test_a_contributor_is_in_the_release_of_its_run(self, world) -> None:
        (one,) = holdings(self.log(world), "harbour")
        assert (one.version, one.run, one.rounds, one.until) == (1, "run-1", (0, 1, 2), None)

    def test_somebody_who_gave_nothing_is_in_none(self, world) -> None:
        assert holdings(self.log(world), "nobody") == []

    def test_whoever_is_in_a_parent_is_in_the_child_until_one_begins_anew(self, world) -> None:
        twin = AggregateLeaf(run="run-2", round=1, inputs={"market": "1" * 64}, began={})
        log = self.log(world, twin, self.release(2, "run-2", parent=1), self.release(3, "run-3"))
        found = holdings(log, "harbour")
        assert [(one.version, one.rounds, one.inherited_from) for one in found] == [
            (1, (0, 1, 2), ()),
            (2, (), (1,)),
        ]
        assert found[0].until == found[1].since
        assert found[1].until == "2026-12-03T00:00:00.000000Z"

    def test_a_release_that_restores_an_earlier_one_holds_what_that_one_holds(self, world) -> None:
        log = self.log(world, self.release(2, "run-2"), self.release(3, "run-1", restores=1))
        assert [one.version for one in holdings(log, "market")] == [1, 3]
        assert NOW.year == 2026
