"""A finished run of two merchants with everything that an auditor gets, for tests.

    world = AuditWorld(tmp_path)
    pack = world.pack()
    pack = world.pack(run=world.run.model_copy(update={"run": "other"}))
    evidence = world.logged()  # the same with the operator's transparency log

Break one thing, then expect one failed check.
"""

import io
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hansa.core.canonical import sha256_hex
from hansa.core.evidence import (
    PLAN_DOMAIN,
    Evidence,
    LogCopy,
    MerchantRecord,
    Release,
    RoundRecord,
    RunRecord,
    write_pack,
)
from hansa.core.identity import Identity, Role, issue, make_authority, make_key
from hansa.core.ids import MerchantId, ReleaseVersion, RunId, task_id
from hansa.core.plan import parse_plan
from hansa.core.privacy.accounting import epsilon_pld
from hansa.core.privacy.ledger import Ledger, open_ledger
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.release import ReleaseManifest, epsilon_text
from hansa.core.signing import key_id_of, sign, signing_key
from hansa.core.statement import STATEMENT_NAME, Contributor, member_digest, ordered
from hansa.core.statement_rules import head_of_run
from hansa.core.transparency.checkpoint import Checkpoint, SignedCheckpoint
from hansa.core.transparency.leaves import (
    AggregateLeaf,
    BeginLeaf,
    CodeLeaf,
    CohortLeaf,
    EndLeaf,
    EntryLeaf,
    KnownLeaf,
    MemberLeaf,
    PlanLeaf,
    instant,
    sentences_digest,
)
from hansa.core.transparency.merkle import Tree, leaf_hash
from hansa.server.transparency.scribe import release_leaf
from tests.fakes.entropy import SeededEntropy
from tests.fakes.release_world import CHANNEL, ReleaseWorld, manifest_of
from tests.fakes.statements import listing, statement_for

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RUN = RunId("run-1")
MERCHANTS = [MerchantId("harbour"), MerchantId("market")]
ORIGIN = "hansa/log/test"
PLAN_KEY = signing_key(b"p" * 32)
PLAN = parse_plan(
    {
        "name": "autumn",
        "privacy": {"sampling_rate": 0.05, "expected_shoppers": 32, "noise_multiplier": 1.0},
        "training": {"local_steps": 5},
        "federation": {"rounds": 3, "quorum": 2},
    },
    "test",
)
PRIVACY = PrivacyPlan.of(PLAN)


def update_of(merchant: str, round_number: int) -> str:
    return sha256_hex(f"{merchant}/{round_number}".encode())


def checkpoint_of(leaves: Sequence[bytes], size: int | None = None) -> bytes:
    """The operator's signature under the first leaves, as everybody sees it in its time."""
    tree = Tree(leaf_hash(body) for body in leaves)
    count = len(tree) if size is None else size
    point = Checkpoint(origin=ORIGIN, size=count, root=tree.root(count), time=NOW)
    return point.signed(PLAN_KEY)


def seen(leaves: Sequence[bytes], size: int | None = None) -> SignedCheckpoint:
    """The same as a merchant or auditor holds it."""
    return SignedCheckpoint.parse(checkpoint_of(leaves, size), "seen")


class AuditWorld:
    """The evidence of a run, and the release that came out of it."""

    def __init__(self, folder: Path, *, stated: bool = False) -> None:
        """With ``stated`` the release has a privacy statement, as all new ones."""
        self.ledgers = {name: self.ledger(name) for name in MERCHANTS}
        self.run = self.run_record()
        self.releases = ReleaseWorld(folder)
        self.merchants = self._merchant_records()
        epsilon = epsilon_text([self.true_epsilon()])
        self.release = self.publish(stated={} if stated else None, epsilon=epsilon)

    def ledger(self, name: str, *, events: Any = None, cap: float = 8.0) -> Ledger:
        """The ledger of a merchant that took part in all three rounds."""
        key = signing_key(name.encode().ljust(32, b"."))
        ledger = open_ledger(cap_epsilon=cap, delta=1e-5, key=key, entropy=SeededEntropy(), now=NOW)
        for number in range(3):
            task = task_id(RUN, number, "train", MerchantId(name))
            ledger.reserve(
                task,
                plan_digest=PLAN.digest,
                run=RUN,
                round_number=number,
                phase="train",
                events=events or [PRIVACY.round_event()],
                now=NOW,
            )
            ledger.commit(task, sha256=update_of(name, number), now=NOW)
        return ledger

    def true_epsilon(self) -> float:
        return epsilon_pld(PRIVACY.run_events(), 1e-5)

    def run_record(self) -> RunRecord:
        rounds = [
            RoundRecord(
                round=number,
                cohort=tuple(MERCHANTS),
                accepted={name: update_of(name, number) for name in MERCHANTS},
                aggregate_sha256=sha256_hex(b"%d" % number),
            )
            for number in range(3)
        ]
        return RunRecord(
            run=RUN, plan_digest=PLAN.digest, rounds=tuple(rounds), started=NOW, finished=NOW
        )

    def manifest(self, **changes: Any) -> ReleaseManifest:
        facts = {"run": RUN, "plan_digest": PLAN.digest, "rounds": [1, 2], **changes}
        return manifest_of({"model.onnx": b"weights"}, facts.pop("version", 1), **facts)

    def contributors(self) -> tuple[Contributor, ...]:
        """How a statement names both merchants."""
        parts = []
        for name, ledger in self.ledgers.items():
            head = head_of_run(ledger.entries, RUN)
            member = member_digest(ledger.opening.dataset_id, RUN, name)
            parts.append(Contributor(member=member, ledger_head=head or "0" * 64))
        return ordered(parts)

    def publish(self, *, stated: dict[str, Any] | None = None, **changes: Any) -> Release:
        """Publishes the release, and hands out its signed bytes.

        Args:
            stated: what its privacy statement has other than the truth; None: it has none.
            changes: what its manifest has.
        """
        artifacts = self.releases.folder / "artifacts"
        artifacts.mkdir(exist_ok=True)
        (artifacts / "model.onnx").write_bytes(b"weights")
        repository = self.releases.repository
        version = repository.next_version(CHANNEL)
        manifest, data = self.manifest(version=version, **changes), None
        if stated is not None:
            parts = {"plan": PLAN, "contributors": self.contributors(), **stated}
            data = statement_for(manifest, **parts).to_bytes()
            manifest = listing(manifest, data)
            (artifacts / STATEMENT_NAME).write_bytes(data)
        repository.publish(artifacts, manifest, manifest.created)
        folder = self.releases.repository_folder / "metadata"
        stored = repository.manifest(CHANNEL, ReleaseVersion(version))
        return Release(
            manifest=stored.to_bytes(),
            statement=data,
            metadata={path.name: path.read_bytes() for path in folder.glob("*.json")},
        )

    def evidence(self, **changes: Any) -> Evidence:
        """The evidence, with single parts replaced."""
        parts = {
            "plan": sign(PLAN.model_dump(mode="json"), PLAN_KEY, domain=PLAN_DOMAIN),
            "run": self.run,
            "merchants": self.merchants,
            "ledgers": {name: ledger.entries for name, ledger in self.ledgers.items()},
            "release": self.release,
        }
        return Evidence(**{**parts, **changes})

    def leaves(self) -> list[bytes]:
        """What the operator's log states of all this, in the order of its server."""
        facts: list[KnownLeaf] = [
            BeginLeaf(origin=ORIGIN, time=instant(NOW), merchants=0, runs=0, entries=0)
        ]
        for name, record in self.merchants.items():
            certificate = x509.load_pem_x509_certificate(record.certificate_pem.encode())
            facts.append(
                MemberLeaf(
                    merchant=name,
                    change="joined",
                    certificate_sha256=sha256_hex(certificate.public_bytes(Encoding.DER)),
                    ledger_key=record.ledger_public_key,
                )
            )
        started = instant(self.run.started)
        facts.append(PlanLeaf(run=RUN, plan_digest=PLAN.digest, started=started))
        for name, ledger in self.ledgers.items():
            facts += [
                EntryLeaf(merchant=name, position=one.position, hash=one.hash)
                for one in ledger.entries
            ]
        facts += [leaf for one in self.run.rounds for leaf in self._round_leaves(one)]
        if self.release.statement is not None:
            facts.append(CodeLeaf(role="server", software="0.1.0", code_digest="d" * 64))
        facts.append(release_leaf(self.release.manifest))
        end = {"state": "completed", "finished": instant(NOW), "release": 1}
        return [leaf.to_bytes() for leaf in (*facts, EndLeaf(run=RUN, **end))]

    def _round_leaves(self, one: RoundRecord) -> list[KnownLeaf]:
        refused = dict(one.refused)
        reasons = {name: why.partition(": ")[0] for name, why in refused.items()}
        return [
            CohortLeaf(
                run=RUN,
                round=one.round,
                asked=one.cohort,
                refused=reasons,
                sentences_sha256=sentences_digest(refused),
            ),
            AggregateLeaf(
                run=RUN,
                round=one.round,
                inputs=one.accepted,
                began=one.began,
                output=one.aggregate_sha256,
            ),
        ]

    def log(self, leaves: Sequence[bytes] | None = None) -> LogCopy:
        """A log with these leaves, under a checkpoint that the operator has signed."""
        bodies = self.leaves() if leaves is None else leaves
        return LogCopy(checkpoint=checkpoint_of(bodies), leaves=tuple(bodies))

    def logged(self, **changes: Any) -> Evidence:
        """The evidence with the log, with single parts replaced."""
        return self.evidence(**{"log": self.log(), **changes})

    def pack(self, **changes: Any) -> bytes:
        """The evidence as the operator hands it out."""
        return write_pack(self.evidence(**changes), PLAN_KEY)

    def _merchant_records(self) -> dict[str, MerchantRecord]:
        authority = make_authority("test", now=NOW, valid_for=timedelta(days=9))
        records = {}
        for name in MERCHANTS:
            identity = Identity(role=Role.MERCHANT, name=name)
            certificate = issue(
                authority, make_key().public_key(), identity, now=NOW, valid_for=timedelta(days=1)
            )
            key = signing_key(name.encode().ljust(32, b"."))
            records[name] = MerchantRecord(
                ledger_public_key=key_id_of(key),
                certificate_pem=certificate.public_bytes(Encoding.PEM).decode(),
            )
        return records


def members_of(pack: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(pack)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zip_of(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with these members in this order, valid in itself."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return buffer.getvalue()
