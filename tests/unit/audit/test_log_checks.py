"""A pack under its log: what the operator cannot change although it holds the key of all of it."""

import pytest

from hansa.audit.findings import Check, Report
from hansa.audit.verifier import verify
from hansa.core.canonical import sha256_hex
from hansa.core.evidence import RoundRecord, RunRecord, read_pack, write_pack
from hansa.core.signing import signing_key
from hansa.core.transparency.checkpoint import SignedCheckpoint
from tests.fakes.audit_world import NOW, PLAN_KEY, AuditWorld, checkpoint_of, seen

ENTRIES = 7
FIRST_ENTRY = 4
"""The log: begin, two members, plan, seven entries of harbour, seven of market, rounds, release."""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("world"))


def faults(report: Report) -> list[Check]:
    return [check for check in report.checks if not check.passed and not check.absent]


def sentence(report: Report) -> str:
    """The one fault's words."""
    (fault,) = faults(report)
    return f"{fault.where}: {fault.detail}"


def changed_round(world: AuditWorld, **changes: object) -> RunRecord:
    rounds = list(world.run.rounds)
    rounds[1] = RoundRecord.model_validate({**rounds[1].model_dump(), **changes})
    return world.run.model_copy(update={"rounds": tuple(rounds)})


def test_a_whole_pack_passes_every_check_and_survives_its_file(world) -> None:
    pack = write_pack(world.logged(), PLAN_KEY)
    leaves = world.leaves()
    report = verify(read_pack(pack), witnessed=[seen(leaves, 5), seen(leaves)])
    assert not faults(report)
    absent = {check.where for check in report.checks if check.absent}
    assert absent == {"release/privacy.json"}
    assert report.witnessed == 2
    assert report.checkpoint is not None
    assert report.checkpoint.startswith(f"{len(leaves)} entries")


def test_a_pack_of_an_older_server_still_verifies_with_the_log_shown_as_absent(world) -> None:
    report = verify(read_pack(world.pack()))
    assert report.passed
    absent = [
        check for check in report.checks if check.absent and check.where == "log/leaves.jsonl"
    ]
    assert len(absent) == 7
    assert not any(check.passed for check in absent)
    assert report.checkpoint is None


def test_a_pack_stripped_of_its_log_fails_where_others_have_seen_the_log(world) -> None:
    report = verify(read_pack(world.pack()), witnessed=[seen(world.leaves())])
    assert "others have seen one" in sentence(report)


def test_a_dropped_last_entry_is_missed_although_the_chain_is_whole(world) -> None:
    ledgers = {name: ledger.entries for name, ledger in world.ledgers.items()}
    world_ledgers = {**ledgers, "market": ledgers["market"][:-1]}
    found = faults(verify(world.logged(ledgers=world_ledgers)))
    assert "ledger entry 6: the log holds it" in found[-1].detail
    assert found[-1].where == "ledgers/market.jsonl"


def test_a_ledger_of_another_history_is_named_by_its_first_other_entry(world) -> None:
    forked = world.ledger("market", cap=9.0)
    ledgers = {name: ledger.entries for name, ledger in world.ledgers.items()}
    report = verify(world.logged(ledgers={**ledgers, "market": forked.entries}))
    found = faults(report)
    assert any("ledger entry 0: the log holds another one at log entry 11" in f.detail
               for f in found)  # fmt: skip


def test_an_entry_that_never_was_logged_is_named(world) -> None:
    leaves = [body for body in world.leaves() if b'"market","position":6' not in body]
    report = verify(world.logged(log=world.log(leaves)))
    assert sentence(report) == "ledgers/market.jsonl: ledger entry 6: it is not in the log"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accepted": {"harbour": "0" * 64, "market": "0" * 64}}, "round 1: other updates"),
        ({"aggregate_sha256": "0" * 64}, "round 1: another aggregate"),
        ({"refused": {"market": "late: x"}}, "round 1"),
    ],
)
def test_a_changed_round_differs_from_the_log(world, changes, words) -> None:
    report = verify(world.logged(run=changed_round(world, **changes)))
    assert any(words in fault.detail and fault.where == "run.json" for fault in faults(report))


def test_a_changed_sentence_of_a_refusal_differs_from_the_log(tmp_path) -> None:
    world = AuditWorld(tmp_path)
    why = {"market": "deadline: no answer before the deadline"}
    accepted = {"harbour": world.run.rounds[0].accepted["harbour"]}
    last = RoundRecord(round=3, cohort=("harbour", "market"), accepted={}, refused=why)
    world.run = world.run.model_copy(update={"rounds": (*world.run.rounds, last)})
    assert not faults(verify(world.logged()))
    other = last.model_copy(update={"refused": {"market": "deadline: it was asked too late"}})
    run = world.run.model_copy(update={"rounds": (*world.run.rounds[:-1], other)})
    assert "other merchants or other refusals" in sentence(verify(world.logged(run=run)))
    assert accepted


def test_a_round_left_out_of_the_run_is_missed(world) -> None:
    run = world.run.model_copy(update={"rounds": world.run.rounds[:-1]})
    found = [fault.detail for fault in faults(verify(world.logged(run=run)))]
    assert "round 2: the log holds it, and run.json leaves it out" in found


@pytest.mark.parametrize("field", ["started", "finished"])
def test_another_time_of_the_run_differs_from_the_log(world, field) -> None:
    run = world.run.model_copy(update={field: NOW.replace(year=2025)})
    assert "the log states another" in sentence(verify(world.logged(run=run)))


def test_a_run_that_has_ended_is_not_shown_as_going_on(world) -> None:
    run = world.run.model_copy(update={"finished": None})
    assert "goes on by run.json" in sentence(verify(world.logged(run=run)))


def test_a_certificate_that_was_never_logged_fails(world, tmp_path) -> None:
    other = AuditWorld(tmp_path).merchants
    report = verify(world.logged(merchants=other))
    assert "its certificate is not in the log" in sentence(report)


def test_a_certificate_whose_text_was_edited_fails(world) -> None:
    record = world.merchants["market"]
    edited = record.model_copy(update={"certificate_pem": "x\n" + record.certificate_pem})
    report = verify(world.logged(merchants={**world.merchants, "market": edited}))
    assert "the certificate's text was edited" in sentence(report)


def test_another_release_than_the_logged_one_fails(tmp_path) -> None:
    world = AuditWorld(tmp_path)
    log = world.log()
    world.release = world.publish(epsilon="8.0000", run="run-1")
    report = verify(world.evidence(log=log))
    assert "the manifest is not in the log" in sentence(report)


class TestTheLogItself:
    def test_an_edited_leaf_has_not_the_signed_root(self, world) -> None:
        leaves = world.leaves()
        log = world.log()
        leaves[1] = leaves[1].replace(b'"joined"', b'"left"')
        log = log.model_copy(update={"leaves": tuple(leaves)})
        found = [fault.detail for fault in faults(verify(world.logged(log=log)))]
        assert found == ["an entry of the log is not the one that was signed"]

    def test_a_dropped_leaf_is_named(self, world) -> None:
        leaves = world.leaves()
        log = world.log().model_copy(update={"leaves": tuple(leaves[:-1])})
        found = [fault.detail for fault in faults(verify(world.logged(log=log)))]
        assert f"log entry {len(leaves) - 1}: the log has" in found[0]

    def test_swapped_entries_are_out_of_order_by_themselves(self, world) -> None:
        leaves = world.leaves()
        at = FIRST_ENTRY
        leaves[at], leaves[at + 1] = leaves[at + 1], leaves[at]
        report = verify(world.logged(log=world.log(leaves)))
        assert "log entry 4: entry 1 of harbour stands where entry 0 should" in sentence(report)

    def test_a_replayed_leaf_is_named(self, world) -> None:
        leaves = world.leaves()
        report = verify(world.logged(log=world.log([*leaves, leaves[7]])))
        assert f"log entry {len(leaves)}: it is entry 7 again" in sentence(report)

    def test_a_second_version_of_a_round_is_named(self, world) -> None:
        leaves = world.leaves()
        other = next(body for body in leaves if b'"aggregate"' in body)
        twin = other.replace(world.run.rounds[0].aggregate_sha256.encode(), b"0" * 64)
        report = verify(world.logged(log=world.log([*leaves, twin])))
        assert "is stated again" in sentence(report)

    def test_a_checkpoint_of_another_key_is_refused(self, world) -> None:
        forged = SignedCheckpoint.parse(checkpoint_of(world.leaves()), "it").checkpoint
        log = world.log().model_copy(update={"checkpoint": forged.signed(signing_key(b"x" * 32))})
        assert "not by" in sentence(verify(world.logged(log=log)))

    def test_a_forged_signature_is_refused(self, world) -> None:
        note = bytearray(checkpoint_of(world.leaves()))
        note[-3] = ord("0") if note[-3] != ord("0") else ord("1")
        log = world.log().model_copy(update={"checkpoint": bytes(note)})
        assert "does not hold" in sentence(verify(world.logged(log=log)))


class TestAnOperatorWhoRewritesEverything:
    """It signs a new log that fits the changed pack: only what others have seen shows it."""

    def rewritten(self, world: AuditWorld) -> tuple[RunRecord, list[bytes]]:
        run = changed_round(world, aggregate_sha256="0" * 64)
        old = world.run.rounds[1].aggregate_sha256
        assert old is not None
        return run, [body.replace(old.encode(), b"0" * 64) for body in world.leaves()]

    def test_without_any_witness_it_is_not_noticed_and_the_report_says_so(self, world) -> None:
        run, leaves = self.rewritten(world)
        report = verify(world.logged(run=run, log=world.log(leaves)))
        assert report.passed
        assert report.witnessed == 0

    def test_a_checkpoint_that_a_merchant_has_seen_gives_it_away(self, world) -> None:
        run, leaves = self.rewritten(world)
        report = verify(
            world.logged(run=run, log=world.log(leaves)), witnessed=[seen(world.leaves())]
        )
        count = len(leaves)
        assert f"log entry {count}: an entry before it is not the one" in sentence(report)

    def test_a_log_that_was_cut_is_shorter_than_what_others_saw(self, world) -> None:
        leaves = world.leaves()
        later = [*leaves, leaves[3].replace(b"run-1", b"run-2")]
        report = verify(world.logged(), witnessed=[seen(later)])
        assert f"log entry {len(leaves)}: the log ends before it" in sentence(report)

    def test_a_checkpoint_of_another_log_is_refused(self, world) -> None:
        point = seen(world.leaves()).checkpoint
        other = type(point)(
            origin="hansa/log/other", size=point.size, root=point.root, time=NOW
        ).signed(PLAN_KEY)
        report = verify(world.logged(), witnessed=[SignedCheckpoint.parse(other, "it")])
        assert "of another log" in sentence(report)


def test_the_release_leaf_names_the_manifests_own_bytes(world) -> None:
    sha = sha256_hex(world.release.manifest)
    assert any(sha.encode() in body for body in world.leaves())
