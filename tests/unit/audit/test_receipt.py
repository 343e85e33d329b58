"""A receipt that is forged, or leaves anything out, does not pass."""

import json

import pytest
from typer.testing import CliRunner

from hansa.audit.cli import app
from hansa.audit.copies import read_copies
from hansa.audit.receipt import check_receipt
from hansa.core.canonical import sha256_hex
from hansa.core.errors import InvalidInputError, SignatureError
from hansa.core.evidence import CHECKPOINT, LEAVES
from hansa.core.privacy.accounting import round_up
from hansa.core.receipt import (
    RECEIPT_DOMAIN,
    LedgerPlace,
    Notice,
    Receipt,
    Spent,
    moment_of,
    read_receipt,
)
from hansa.core.signing import key_id_of, sign, signing_key
from hansa.core.transparency.holdings import LoggedReleases, UnreleasedRun, holdings, unreleased
from hansa.core.transparency.leaves import AggregateLeaf, MemberLeaf, ReleaseLeaf, parse_leaf
from tests.fakes.audit_world import NOW, PLAN_KEY, AuditWorld, checkpoint_of

HARBOUR_KEY = signing_key(b"harbour".ljust(32, b"."))
CERTIFICATE = sha256_hex(b"certificate of harbour")
LEFT = MemberLeaf(merchant="harbour", change="left", certificate_sha256=CERTIFICATE)
DRAFT = AggregateLeaf(run="draft", round=1, inputs={"harbour": "1" * 64}, began={})
CHILD = ReleaseLeaf(
    channel="stable",
    version=2,
    run="run-2",
    manifest_sha256="2" * 64,
    created="2026-12-02T00:00:00.000000Z",
    parent=1,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def leaves(world) -> list[bytes]:
    return [*world.leaves(), DRAFT.to_bytes(), CHILD.to_bytes(), LEFT.to_bytes()]


@pytest.fixture(scope="module")
def honest(world, leaves) -> Receipt:
    """What the server would sign: releases 1 and 2, the run that was not released, epsilon."""
    log = LoggedReleases.of(parse_leaf(body, "it") for body in leaves)
    ledger = world.ledgers["harbour"]
    place = LedgerPlace(entries=len(ledger.entries), head=ledger.entries[-1].hash)
    notice = Notice(
        merchant="harbour", remedy="roll-back", time=moment_of(NOW), ledger=place
    ).signed(HARBOUR_KEY)
    return Receipt(
        merchant="harbour",
        remedy="roll-back",
        time=moment_of(NOW),
        certificates=(CERTIFICATE,),
        ledger_key=key_id_of(HARBOUR_KEY),
        notice=notice.decode(),
        spent=Spent(
            place=place,
            epsilon=str(round_up(ledger.spent_epsilon())),
            delta=1e-5,
            unit="shopper",
        ),
        releases=tuple(holdings(log, "harbour")),
        runs=tuple(unreleased(log, "harbour")),
        newest_without=(),
        checkpoint=checkpoint_of(leaves).decode(),
    )


@pytest.fixture
def pulled(tmp_path, world, leaves):
    return folder_of(tmp_path / "auditor", leaves)


def folder_of(folder, leaves):
    (folder / CHECKPOINT).parent.mkdir(parents=True)
    (folder / CHECKPOINT).write_bytes(checkpoint_of(leaves))
    (folder / LEAVES).write_bytes(b"".join(one + b"\n" for one in leaves))
    return folder


def faults(receipt, *paths) -> list[str]:
    data = receipt if isinstance(receipt, bytes) else receipt.signed(PLAN_KEY)
    checks = check_receipt(data, read_copies(paths), plan_key=key_id_of(PLAN_KEY))
    return [f"{one.name}: {one.detail}" for one in checks if not one.passed]


def changed(receipt: Receipt, **changes) -> Receipt:
    return receipt.model_copy(update=changes)


def test_an_honest_receipt_names_releases_children_and_drafts(honest) -> None:
    assert [(one.version, one.inherited_from) for one in honest.releases] == [(1, ()), (2, (1,))]
    assert honest.runs == (UnreleasedRun(run="draft", rounds=(1,), ended=False),)


def test_an_honest_receipt_passes_with_log_and_ledger(honest, pulled, world, tmp_path) -> None:
    book = tmp_path / "ledger.jsonl"
    book.write_bytes(b"".join(one.to_bytes() + b"\n" for one in world.ledgers["harbour"].entries))
    data = honest.signed(PLAN_KEY)
    copies = read_copies([pulled, book])
    checks = check_receipt(data, copies, plan_key=key_id_of(PLAN_KEY))
    assert [one for one in checks if not one.passed or one.absent] == []
    assert "OPEN, stable 2 holds its updates" in checks[-2].detail


def test_without_a_log_only_the_signatures_are_checked_and_the_rest_is_absent(honest) -> None:
    checks = check_receipt(honest.signed(PLAN_KEY), read_copies([]), plan_key=key_id_of(PLAN_KEY))
    assert [one.name for one in checks if not one.absent] == [
        "receipt is signed",
        "merchant's own notice",
    ]


class TestAForgedReceipt:
    def test_of_another_key_is_refused(self, honest) -> None:
        with pytest.raises(SignatureError, match="not by"):
            faults(honest.signed(signing_key(b"x" * 32)))

    def test_with_an_edited_byte_is_refused(self, honest) -> None:
        data = honest.signed(PLAN_KEY)
        for at in range(0, len(data), 97):
            with pytest.raises((SignatureError, InvalidInputError)):
                read_receipt(
                    data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], key_id=key_id_of(PLAN_KEY)
                )

    def test_made_of_the_operators_signature_for_another_purpose_is_refused(self, honest) -> None:
        other = sign(honest.model_dump(mode="json"), PLAN_KEY, domain="plan")
        with pytest.raises(SignatureError):
            faults(other.to_bytes())

    def test_in_another_spelling_is_refused(self, honest) -> None:
        data = json.dumps(json.loads(honest.signed(PLAN_KEY))).encode()
        with pytest.raises(SignatureError, match="canonical"):
            faults(data)
        assert RECEIPT_DOMAIN != "plan"

    def test_that_changes_the_merchants_own_choice_fails(self, honest) -> None:
        (fault,) = faults(changed(honest, remedy="stated-bound"))
        assert fault == (
            "merchant's own notice: the merchant's notice within the receipt says something else"
        )


class TestAReceiptThatIsIncomplete:
    def test_leaves_out_a_release(self, honest, pulled) -> None:
        (fault,) = faults(changed(honest, releases=honest.releases[:1]), pulled)
        assert fault == (
            "releases are complete: release 2 of stable holds its updates; left out or changed"
        )

    def test_shortens_the_rounds_of_a_release(self, honest, pulled) -> None:
        short = changed(honest.releases[0], rounds=(0,))
        (fault,) = faults(changed(honest, releases=(short, *honest.releases[1:])), pulled)
        assert "release 1 of stable" in fault

    def test_leaves_out_a_run_that_may_be_released_yet(self, honest, pulled) -> None:
        (fault,) = faults(changed(honest, runs=()), pulled)
        assert fault == "runs are complete: run draft holds its updates; left out or changed"

    def test_understates_epsilon(self, honest, pulled, world, tmp_path) -> None:
        book = tmp_path / "ledger.jsonl"
        entries = world.ledgers["harbour"].entries
        book.write_bytes(b"".join(one.to_bytes() + b"\n" for one in entries))
        low = honest.spent.model_copy(update={"epsilon": "0.01"})
        (fault,) = faults(changed(honest, spent=low), pulled, book)
        assert "epsilon is the ledger's: the ledger costs" in fault

    def test_counts_fewer_ledger_entries_than_it_names(self, honest, pulled) -> None:
        place = honest.spent.place.model_copy(update={"entries": 3})
        spent = honest.spent.model_copy(update={"place": place})
        (fault,) = faults(changed(honest, spent=spent), pulled)
        assert fault == "ledger's head is in the log: ledger entry 2 in the log is another one"

    def test_comes_from_a_log_that_does_not_say_that_it_left(
        self, honest, world, leaves, tmp_path
    ) -> None:
        kept = folder_of(tmp_path / "kept", leaves[:-1])
        point = checkpoint_of(leaves[:-1]).decode()
        (fault,) = faults(changed(honest, checkpoint=point), kept)
        assert "does not say that it left" in fault

    def test_comes_from_another_log(self, honest, leaves, tmp_path) -> None:
        other = folder_of(tmp_path / "other", [*leaves[:-2], leaves[-1]])
        (fault,) = faults(honest, other)
        assert "receipt's log is this one: log entry" in fault

    def test_is_followed_by_a_round_with_its_updates(self, honest, leaves, tmp_path) -> None:
        late = AggregateLeaf(run="run-9", round=1, inputs={"harbour": "3" * 64}, began={})
        folder = folder_of(tmp_path / "late", [*leaves, late.to_bytes()])
        (fault,) = faults(honest, folder)
        assert "an update of it is in round 1 of run-9, which the receipt does not name" in fault


def test_an_update_that_was_in_hand_may_be_aggregated_later(honest, leaves, tmp_path) -> None:
    late = AggregateLeaf(run="draft", round=2, inputs={"harbour": "3" * 64}, began={})
    assert faults(honest, folder_of(tmp_path / "late", [*leaves, late.to_bytes()])) == []


def test_the_remedy_is_done_when_the_newest_release_is_without_it(honest, leaves, tmp_path) -> None:
    clean = CHILD.model_copy(update={"version": 3, "run": "run-3", "parent": None})
    folder = folder_of(tmp_path / "clean", [*leaves, clean.to_bytes()])
    copies = read_copies([folder])
    checks = check_receipt(honest.signed(PLAN_KEY), copies, plan_key=key_id_of(PLAN_KEY))
    (remedy,) = [one for one in checks if one.name == "remedy"]
    assert remedy.detail == "roll-back: done, no channel's newest release holds its updates"


def test_the_command_ends_with_13_when_a_release_is_left_out(honest, pulled, tmp_path) -> None:
    path = tmp_path / "receipt.json"
    run = CliRunner()
    line = ["receipt", str(path), str(pulled), "--plan-key", key_id_of(PLAN_KEY)]
    path.write_bytes(honest.signed(PLAN_KEY))
    assert run.invoke(app, line).exit_code == 0
    path.write_bytes(changed(honest, releases=()).signed(PLAN_KEY))
    result = run.invoke(app, [*line, "--json"])
    assert result.exit_code == 13
    assert '"passed": false' in result.output
