"""What it costs an auditor to verify a pack of 100,000 ledger entries, with all signatures.

Claim: reading and verifying a pack of 100,000 entries takes less than 60 s of CPU time on one core:
every hash and signature, the root of the log over all of it, epsilon by three accountants, and
checkpoints from elsewhere.

Command:
    python -m benchmarks.privacy_parts.verify

Expected: 20 to 45 s, about 5 s of it for reading the pack.
"""

import argparse
import datetime as dt
import time
from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks.federation_parts.measure import emit, note
from hansa.audit.verifier import verify
from hansa.core.canonical import sha256_hex
from hansa.core.evidence import (
    PLAN_DOMAIN,
    Evidence,
    LogCopy,
    MerchantRecord,
    RoundRecord,
    RunRecord,
    read_pack,
    write_pack,
)
from hansa.core.identity import Identity, Role, issue, make_authority, make_key
from hansa.core.ids import MerchantId, RunId, task_id
from hansa.core.plan import parse_plan
from hansa.core.privacy.entries import AnyBody, Commit, Entry, Open, Reserve, make_entry
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.signing import key_id_of, sign, signing_key
from hansa.core.transparency.checkpoint import Checkpoint, SignedCheckpoint
from hansa.core.transparency.leaves import (
    AggregateLeaf,
    BeginLeaf,
    CohortLeaf,
    KnownLeaf,
    MemberLeaf,
    PlanLeaf,
    entry_leaf,
    instant,
    sentences_digest,
)
from hansa.core.transparency.merkle import Tree, leaf_hash

NOW: Final = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
ORIGIN: Final = "hansa/log/bench"
RUN: Final = RunId("bench-0001")
PLAN_KEY: Final = signing_key(b"p" * 32)
PLAN: Final = parse_plan(
    {
        "name": "bench",
        "privacy": {"sampling_rate": 0.001, "expected_shoppers": 32, "noise_multiplier": 30.0},
        "training": {"local_steps": 1},
        "federation": {"rounds": 50, "quorum": 1},
        "compression": None,
    },
    "the benchmark",
)
ROUNDS: Final = 50


def bodies(name: str, count: int, key: Ed25519PrivateKey) -> list[AnyBody]:
    """A ledger's entries: its opening, and pairs of reservation and commit."""
    opening = Open(dataset_id="0" * 64, public_key=key_id_of(key), cap_epsilon=50.0, delta=1e-5)
    found: list[AnyBody] = [opening]
    event = PrivacyPlan.of(PLAN).round_event()
    for number in range((count - 1) // 2):
        run = RUN if number < ROUNDS else RunId(f"earlier-{number:06d}")
        task = task_id(run, number % ROUNDS + 1, "train", MerchantId(name))
        found.append(
            Reserve(
                id=task,
                plan_digest=PLAN.digest,
                run=run,
                round=number % ROUNDS + 1,
                phase="train",
                events=(event,),
            )
        )
        found.append(Commit(id=task, sha256=sha256_hex(task.encode())))
    return found


def ledger(name: str, count: int) -> tuple[Entry, ...]:
    """The same, chained and signed."""
    key = signing_key(name.encode().ljust(32, b"."))
    entries: list[Entry] = []
    for body in bodies(name, count, key):
        entries.append(make_entry(body, after=entries[-1] if entries else None, now=NOW, key=key))
    return tuple(entries)


def evidence(merchants: int, entries: int) -> Evidence:
    """A pack's content with so many entries in all."""
    names = [f"merchant-{number:02d}" for number in range(merchants)]
    note(f"making {entries} entries of {merchants} merchants")
    ledgers = {name: ledger(name, entries // merchants) for name in names}
    rounds = tuple(_round(number, names) for number in range(1, ROUNDS + 1))
    run = RunRecord(run=RUN, plan_digest=PLAN.digest, rounds=rounds, started=NOW)
    records = {name: _member(name) for name in names}
    return Evidence(
        plan=sign(PLAN.model_dump(mode="json"), PLAN_KEY, domain=PLAN_DOMAIN),
        run=run,
        merchants=records,
        ledgers=ledgers,
        log=_log(run, records, ledgers),
    )


def _round(number: int, names: Sequence[str]) -> RoundRecord:
    tasks = {name: task_id(RUN, number, "train", MerchantId(name)) for name in names}
    return RoundRecord(
        round=number,
        cohort=tuple(names),
        accepted={name: sha256_hex(task.encode()) for name, task in tasks.items()},
        aggregate_sha256=sha256_hex(b"%d" % number),
    )


def _member(name: str) -> MerchantRecord:
    authority = make_authority("bench", now=NOW, valid_for=dt.timedelta(days=9))
    certificate = issue(
        authority,
        make_key().public_key(),
        Identity(role=Role.MERCHANT, name=name),
        now=NOW,
        valid_for=dt.timedelta(days=1),
    )
    return MerchantRecord(
        ledger_public_key=key_id_of(signing_key(name.encode().ljust(32, b"."))),
        certificate_pem=certificate.public_bytes(Encoding.PEM).decode(),
    )


def _log(
    run: RunRecord, records: dict[str, MerchantRecord], ledgers: dict[str, tuple[Entry, ...]]
) -> LogCopy:
    begin = BeginLeaf(origin=ORIGIN, time=instant(NOW), merchants=0, runs=0, entries=0)
    plan = PlanLeaf(run=run.run, plan_digest=run.plan_digest, started=instant(run.started))
    members = [_joined(name, record) for name, record in records.items()]
    first: list[KnownLeaf] = [begin, *members, plan]
    booked = [
        entry_leaf(name, one.position, one.hash) for name, own in ledgers.items() for one in own
    ]
    last = [leaf for one in run.rounds for leaf in _round_leaves(one)]
    leaves = [*(leaf.to_bytes() for leaf in first), *booked, *(leaf.to_bytes() for leaf in last)]
    return LogCopy(checkpoint=checkpoint(leaves, len(leaves)), leaves=tuple(leaves))


def _joined(name: str, record: MerchantRecord) -> MemberLeaf:
    der = certificate_der(record)
    return MemberLeaf(
        merchant=name,
        change="joined",
        certificate_sha256=sha256_hex(der),
        ledger_key=record.ledger_public_key,
    )


def certificate_der(record: MerchantRecord) -> bytes:
    """The bytes of a merchant's certificate."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(record.certificate_pem.encode()).public_bytes(
        Encoding.DER
    )


def _round_leaves(one: RoundRecord) -> list[KnownLeaf]:
    cohort = CohortLeaf(
        run=RUN,
        round=one.round,
        asked=one.cohort,
        refused={},
        sentences_sha256=sentences_digest({}),
    )
    aggregate = AggregateLeaf(
        run=RUN, round=one.round, inputs=one.accepted, began={}, output=one.aggregate_sha256
    )
    return [cohort, aggregate]


def checkpoint(leaves: Sequence[bytes], size: int) -> bytes:
    """The operator's checkpoint over the first leaves."""
    root = Tree(leaf_hash(body) for body in leaves[:size]).root()
    return Checkpoint(origin=ORIGIN, size=size, root=root, time=NOW).signed(PLAN_KEY)


def measured(merchants: int, entries: int) -> dict[str, object]:
    """CPU seconds of reading and verifying such a pack, and its size."""
    content = evidence(merchants, entries)
    leaves = content.log.leaves if content.log is not None else ()
    sizes = [max(1, len(leaves) * part // 12) for part in range(1, 13)]
    seen = [SignedCheckpoint.parse(checkpoint(leaves, size), "seen") for size in sizes]
    pack = write_pack(content, PLAN_KEY)
    del content
    begin = time.process_time()
    read = read_pack(pack)
    between = time.process_time()
    report = verify(read, plan_key=key_id_of(PLAN_KEY), witnessed=seen)
    end = time.process_time()
    report.require()
    total = sum(map(len, read.ledgers.values()))
    note(f"{total} entries: read in {between - begin:.1f} s, verified in {end - between:.1f} s")
    return {
        "verify_100k_entries_s": round((end - begin) * 100_000 / total, 2),
        "read_s": round(between - begin, 2),
        "verify_s": round(end - between, 2),
        "entries": total,
        "pack_bytes": len(pack),
        "passed": report.passed,
    }


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merchants", type=int, default=10)
    parser.add_argument("--entries", type=int, default=100_000)
    options = parser.parse_args()
    emit(measured(options.merchants, options.entries))


if __name__ == "__main__":
    main()
