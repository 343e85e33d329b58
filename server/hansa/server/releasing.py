"""From a run's aggregate to a signed release, and from a plan to its first model."""

import datetime as dt
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hansa.compression.artifact import Artifact
from hansa.compression.fidelity import Fidelity
from hansa.compression.package import BaseInfo, build_gated_artifact
from hansa.core import evidence
from hansa.core.content import Content
from hansa.core.errors import InvalidInputError
from hansa.core.ids import ReleaseVersion, RunId, Sha256
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import accountants, epsilon_pld
from hansa.core.privacy.entries import Entry, Reserve
from hansa.core.release import (
    MANIFEST_NAME,
    BaseModelFacts,
    FileFacts,
    ReleaseManifest,
    epsilon_text,
    target_path,
)
from hansa.core.storage import BlobStore
from hansa.core.update import Arrays
from hansa.server.initialise import CHANNEL
from hansa.server.models import ModelRoom
from hansa.server.releases.files import RepositoryFiles
from hansa.server.releases.keys import load_online_keys
from hansa.server.releases.repository import ReleaseRepository
from hansa.server.rounds.loop import store_arrays
from hansa.server.rounds.worker import Published
from hansa.server.settings import StateFolder
from hansa.server.state.runs import RoundRecord
from hansa.server.state.tables import RunRow


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a release comes from."""

    run: RunRow
    plan: RunPlan
    rounds: tuple[int, ...]
    epsilons: list[float]
    aggregate: Sha256


class Releaser:
    """Builds, checks, signs and publishes; and gives each run its first model."""

    def __init__(
        self, state: StateFolder, repository: ReleaseRepository, models: ModelRoom, blobs: BlobStore
    ) -> None:
        self._state = state
        self._repository = repository
        self._models = models
        self._blobs = blobs

    @staticmethod
    def open(state: StateFolder, models: ModelRoom, blobs: BlobStore) -> "Releaser":
        """The releaser of the server whose state lies here."""
        repository = ReleaseRepository(state.releases, load_online_keys(state.release_keys))
        return Releaser(state, repository, models, blobs)

    @property
    def files(self) -> RepositoryFiles:
        """What merchants may read."""
        return self._repository.files

    def root(self) -> bytes:
        """The TUF root that a merchant pins when it joins."""
        return self.files.root()

    def refresh(self, now: dt.datetime) -> None:
        """Renews the short-lived timestamp."""
        self._repository.refresh_timestamp(now)

    def initial(self, plan: RunPlan) -> Arrays:
        """The arrays with which a run begins."""
        return self._models.initial(plan)

    def context(self, plan: RunPlan) -> Content:
        """The public records that every task of a run needs."""
        return self._models.context(plan)

    def release(
        self,
        run: RunRow,
        plan: RunPlan,
        model: Arrays,
        rounds: list[RoundRecord],
        ledgers: dict[str, tuple[Entry, ...]],
        now: dt.datetime,
    ) -> Published:
        """Compresses the model, checks it against the plan's limits, signs and publishes it.

        Args:
            run: the run that made the model.
            plan: its plan.
            model: the averaged arrays.
            rounds: the run's aggregated rounds.
            ledgers: the server's copies of the ledgers of all merchants that took part.
            now: the moment of publication.

        Raises:
            ReleaseGateError: a limit of the plan is broken; nothing is released.
        """
        newest = self._repository.newest(CHANNEL)
        if newest is not None and newest.run == run.run_id:
            # A crash came after the publication and before the run was closed.
            return Published(version=newest.release_version, figures=dict(newest.fidelity))
        folder = self._state.work / run.run_id
        shutil.rmtree(folder, ignore_errors=True)
        artifact, fidelity = self._build(plan, model, folder)
        source = _Source(
            run=run,
            plan=plan,
            rounds=tuple(record.number for record in rounds),
            epsilons=_epsilons(RunId(run.run_id), ledgers, plan.privacy.delta),
            aggregate=store_arrays(self._blobs, model),
        )
        manifest = self._manifest(source, artifact, fidelity, now)
        version = self._repository.publish(folder, manifest, now)
        shutil.rmtree(folder)
        return Published(version=version, figures=fidelity.model_dump(mode="json"))

    def _build(self, plan: RunPlan, model: Arrays, folder: Path) -> tuple[Artifact, Fidelity]:
        if plan.compression is None:
            raise InvalidInputError(f"the plan {plan.name!r} releases nothing")
        return build_gated_artifact(
            self._models.encoder(plan),
            self._models.folder(plan),
            self._models.tower(plan, model),
            BaseInfo(model=plan.model, plan_digest=plan.digest),
            folder,
            texts=self._models.public_texts(),
            limits=plan.compression,
        )

    def _manifest(
        self, source: "_Source", artifact: Artifact, fidelity: Fidelity, now: dt.datetime
    ) -> ReleaseManifest:
        plan = source.plan
        return ReleaseManifest(
            version=self._repository.next_version(CHANNEL),
            channel=CHANNEL,
            run=source.run.run_id,
            plan_name=plan.name,
            plan_digest=plan.digest,
            rounds=source.rounds,
            epsilon=epsilon_text(source.epsilons),
            delta=plan.privacy.delta,
            unit=plan.privacy.unit,
            neighbouring_relation="add-or-remove-one",
            accountants=accountants(),
            base_model=BaseModelFacts(name=plan.model.base, digest=self._models.digest(plan)),
            aggregate_sha256=source.aggregate,
            files={
                name: FileFacts(sha256=file.sha256, size_bytes=file.size_bytes)
                for name, file in artifact.files.items()
            },
            fidelity={name: float(value) for name, value in fidelity.model_dump().items()},
            created=now,
        )

    def evidence(self, version: int) -> evidence.Release:
        """The signed bytes of a release for the auditor."""
        files = self.files
        snapshot = files.snapshot().signed
        names = {
            "root.json": f"{files.newest('root')}.root.json",
            "timestamp.json": "timestamp.json",
            "snapshot.json": f"{snapshot.version}.snapshot.json",
            **{name: f"{meta.version}.{name}" for name, meta in snapshot.meta.items()},
        }
        path = target_path(CHANNEL, ReleaseVersion(version), MANIFEST_NAME)
        manifest = files.targets.read(
            Sha256(files.role(CHANNEL).signed.targets[path].hashes["sha256"])
        )
        return evidence.Release(
            manifest=manifest,
            metadata={name: files.metadata(stored) for name, stored in names.items()},
        )


def _epsilons(run: RunId, ledgers: dict[str, tuple[Entry, ...]], delta: float) -> list[float]:
    """Each merchant's epsilon over everything it booked up to its last entry of this run."""
    return [epsilon_pld(_events_until(run, entries), delta) for entries in ledgers.values()]


def _events_until(run: RunId, entries: tuple[Entry, ...]) -> list[Any]:
    bodies = [entry.body for entry in entries]
    own = [
        place for place, body in enumerate(bodies) if isinstance(body, Reserve) and body.run == run
    ]
    booked = bodies[: own[-1] + 1] if own else []
    return [event for body in booked if isinstance(body, Reserve) for event in body.events]
