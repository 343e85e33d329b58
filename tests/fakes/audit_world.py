"""A finished run of two merchants with everything that an auditor gets, for tests.

    world = AuditWorld(tmp_path)
    pack = world.pack()
    pack = world.pack(run=world.run.model_copy(update={"run": "other"}))

Break one thing, then expect one failed check.
"""

import io
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from hansa.core.canonical import sha256_hex
from hansa.core.evidence import (
    PLAN_DOMAIN,
    Evidence,
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
from tests.fakes.entropy import SeededEntropy
from tests.fakes.release_world import CHANNEL, ReleaseWorld, manifest_of

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RUN = RunId("run-1")
MERCHANTS = [MerchantId("harbour"), MerchantId("market")]
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


class AuditWorld:
    """The evidence of a run, and the release that came out of it."""

    def __init__(self, folder: Path) -> None:
        self.ledgers = {name: self.ledger(name) for name in MERCHANTS}
        self.run = self.run_record()
        self.releases = ReleaseWorld(folder)
        self.merchants = self._merchant_records()
        self.release = self.publish(epsilon=epsilon_text([self.true_epsilon()]))

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

    def publish(self, **changes: Any) -> Release:
        """Publishes the release, and hands out its signed bytes."""
        artifacts = self.releases.folder / "artifacts"
        artifacts.mkdir(exist_ok=True)
        (artifacts / "model.onnx").write_bytes(b"weights")
        repository = self.releases.repository
        version = repository.next_version(CHANNEL)
        manifest = self.manifest(version=version, **changes)
        repository.publish(artifacts, manifest, manifest.created)
        folder = self.releases.repository_folder / "metadata"
        stored = repository.manifest(CHANNEL, ReleaseVersion(version))
        return Release(
            manifest=stored.to_bytes(),
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
