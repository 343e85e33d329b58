"""A whole release repository in a folder, for tests of both sides.

world = ReleaseWorld(tmp_path)
world.release(1)
updater = Updater(tmp_path / "site", FakeReleaseSource(world.files), world.root)
updater.refresh_and_fetch("stable")
"""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hansa.core.canonical import sha256_hex
from hansa.core.release import ReleaseManifest
from hansa.core.statement import STATEMENT_NAME
from hansa.server.releases.ceremony import create_repository, renew_repository
from hansa.server.releases.files import RepositoryFiles
from hansa.server.releases.keys import create_keys, load_offline_keys, load_online_keys
from hansa.server.releases.repository import ReleaseRepository
from tests.fakes.statements import listing, stated

TODAY = datetime.now(UTC).replace(microsecond=0)
"""The real day: python-tuf compares expiry dates with the machine's clock."""
CHANNEL = "stable"


def pseudo_random(size: int, seed: int = 0) -> bytes:
    """``size`` bytes that always are the same and do not repeat."""
    return hashlib.shake_256(seed.to_bytes(8, "big")).digest(size)


def manifest_of(files: dict[str, bytes], version: int, **changes: object) -> ReleaseManifest:
    """A valid manifest of the files; ``changes`` replace single fields."""
    fields: dict[str, Any] = {
        "version": version,
        "channel": CHANNEL,
        "run": "run-1",
        "plan_name": "autumn",
        "plan_digest": "a" * 64,
        "rounds": [1, 2, 3],
        "epsilon": "1.9876",
        "delta": 1e-5,
        "unit": "shopper",
        "neighbouring_relation": "add_or_remove_one",
        "accountants": {"dp-accounting": "0.4.4"},
        "base_model": {"name": "minilm", "digest": "b" * 64},
        "aggregate_sha256": "c" * 64,
        "files": {
            name: {"sha256": sha256_hex(data), "size_bytes": len(data)}
            for name, data in files.items()
        },
        "fidelity": {"mean_cosine": 0.991},
        "created": TODAY,
    }
    return ReleaseManifest.model_validate({**fields, **changes})


class ReleaseWorld:
    """Keys, repository and artifact folders of one operator."""

    def __init__(self, folder: Path, channels: tuple[str, ...] = (CHANNEL,)) -> None:
        self.folder = folder
        self.online = folder / "keys"
        self.offline = folder / "offline"
        self.repository_folder = folder / "repository"
        create_keys(self.online, self.offline, channels)
        create_repository(
            self.repository_folder,
            online=load_online_keys(self.online),
            offline=load_offline_keys(self.offline),
            now=TODAY,
        )
        self.files = RepositoryFiles(self.repository_folder)
        self.root = self.files.root()

    @property
    def repository(self) -> ReleaseRepository:
        """A fresh publisher, as after a restart."""
        return ReleaseRepository(self.repository_folder, load_online_keys(self.online))

    def renew(self, now: datetime = TODAY) -> None:
        """The ceremony with whatever keys the folders hold now."""
        renew_repository(
            self.repository_folder,
            online=load_online_keys(self.online),
            offline=load_offline_keys(self.offline),
            now=now,
        )

    def artifact(self, files: dict[str, bytes], version: int) -> Path:
        """The files in a folder of their own."""
        folder = self.folder / "artifacts" / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder

    def release(
        self, version: int, files: dict[str, bytes] | None = None, now: datetime = TODAY
    ) -> ReleaseManifest:
        """Publishes a release, by default with a model of its own and an unchanging tokenizer."""
        files = files or {
            "model.onnx": pseudo_random(300_000, version),
            "tokenizer.json": b'{"tokens": []}',
        }
        return self.publish(manifest_of(files, version), files, now)

    def publish(
        self,
        manifest: ReleaseManifest,
        files: dict[str, bytes],
        now: datetime = TODAY,
        *,
        statement: bytes | None = None,
    ) -> ReleaseManifest:
        """Publishes with this statement, or one that agrees with the manifest."""
        if statement is None:
            manifest, statement = stated(manifest)
        else:
            manifest = listing(manifest, statement)
        folder = self.artifact({**files, STATEMENT_NAME: statement}, manifest.version)
        self.repository.publish(folder, manifest, now)
        return manifest

    def publish_unstated(self, version: int, files: dict[str, bytes]) -> ReleaseManifest:
        """A release as a server of before published it."""
        manifest = manifest_of(files, version)
        self.repository.publish(self.artifact(files, version), manifest, TODAY)
        return manifest

    def expire_timestamp(self) -> None:
        """Leaves the repository with a timestamp that ran out yesterday."""
        self.repository.refresh_timestamp(TODAY - timedelta(days=2))

    def blob(self, manifest: ReleaseManifest, name: str) -> Path:
        """Where the repository keeps a file of a release."""
        sha = manifest.files[name].sha256
        return self.repository_folder / "targets" / sha[:2] / sha
