"""From a run's aggregate to a signed release, and from a plan to its first model."""

import datetime as dt
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hansa.compression.artifact import Artifact
from hansa.compression.fidelity import Fidelity
from hansa.compression.package import BaseInfo, build_gated_artifact
from hansa.core import evidence
from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.empirical import EmpiricalResult
from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.ids import ReleaseVersion, RunId, Sha256
from hansa.core.models.shapes import NEGATIVES, PUBLIC
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import accountants
from hansa.core.privacy.entries import Entry
from hansa.core.release import (
    MANIFEST_NAME,
    BaseModelFacts,
    FileFacts,
    ReleaseManifest,
    target_path,
)
from hansa.core.statement import STATEMENT_NAME, Claim
from hansa.core.storage import BlobStore, write_atomically
from hansa.core.update import Arrays
from hansa.server.empirical import audit_training
from hansa.server.initialise import CHANNEL
from hansa.server.models import ModelRoom
from hansa.server.releases.files import RepositoryFiles
from hansa.server.releases.keys import load_online_keys
from hansa.server.releases.repository import ReleaseRepository
from hansa.server.rounds.checkpoints import load_arrays, store_arrays
from hansa.server.rounds.worker import Published
from hansa.server.settings import StateFolder
from hansa.server.state.runs import RoundRecord
from hansa.server.state.tables import RunRow
from hansa.server.statements import (
    RELATION,
    Attack,
    Books,
    audited,
    check_books,
    claim_of,
    statement_of,
)

_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a release comes from."""

    run: RunRow
    books: Books
    checks: tuple[str, ...]
    claim: Claim
    empirical: EmpiricalResult | None
    aggregate: Sha256


class Releaser:
    """Builds, checks, signs and publishes; and gives each run its first model."""

    def __init__(
        self,
        state: StateFolder,
        repository: ReleaseRepository,
        models: ModelRoom,
        blobs: BlobStore,
        attack: Attack | None = None,
    ) -> None:
        """Takes what it builds from; ``attack`` audits a plan's training before its release."""
        self._state = state
        self._repository = repository
        self._models = models
        self._blobs = blobs
        self._attack = attack

    @staticmethod
    def open(state: StateFolder, models: ModelRoom, blobs: BlobStore) -> "Releaser":
        """The releaser of the server whose state lies here."""
        repository = ReleaseRepository(state.releases, load_online_keys(state.release_keys))
        limit_s = state.settings().empirical_audit_limit_s
        attack = partial(audit_training, limit_s=limit_s) if limit_s else None
        return Releaser(state, repository, models, blobs, attack)

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

    def newest(self) -> int:
        """The number of the last release; 0 before the first."""
        manifest = self._repository.newest(CHANNEL)
        return 0 if manifest is None else manifest.version

    def initial(self, plan: RunPlan, parent: int) -> Arrays:
        """The arrays with which a run begins: the public model's, or those of a release.

        Raises:
            InvalidInputError: the release was trained on another model, or in other shapes.
        """
        first = self._models.initial(plan)
        if not parent:
            return first
        manifest = self._repository.manifest(CHANNEL, ReleaseVersion(parent))
        arrays = load_arrays(self._blobs, Sha256(manifest.aggregate_sha256))
        if manifest.base_model.digest != self._models.digest(plan) or not _alike(arrays, first):
            raise InvalidInputError(
                f"release {parent} was trained on another base model or with another rank than the "
                "plan's; make them equal, or begin with 'base-model'"
            )
        return arrays

    def context(self, plan: RunPlan, inherited: Content | None) -> Content:
        """The public records that every task of a run needs.

        A run that goes on from a release keeps that model's constants, whatever the catalogue says
        now; only the negatives are today's.
        """
        public = dict(self._models.context(plan).arrays[PUBLIC])
        if inherited is not None:
            public |= _constants(inherited)
        return Content(arrays={PUBLIC: public})

    def release(
        self,
        run: RunRow,
        plan: RunPlan,
        model: Arrays,
        rounds: list[RoundRecord],
        ledgers: dict[str, tuple[Entry, ...]],
        now: dt.datetime,
        go_on: Callable[[], None],
    ) -> Published:
        """Compresses the model, checks it against the plan's limits, signs and publishes it.

        The books are checked first: a release whose privacy cannot be stated is not built.

        Args:
            run: the run that made the model.
            plan: its plan.
            model: the averaged arrays.
            rounds: the run's aggregated rounds.
            ledgers: the server's copies of the ledgers of all merchants that took part.
            now: the moment of publication.
            go_on: is called right before the publication; what it raises prevents it.

        Raises:
            ReleaseGateError: a limit of the plan is broken, or its empirical audit found a fault;
                nothing is released.
            AuditFailedError: the ledgers do not bear out the rounds; nothing is released.
        """
        if (known := self.made_by(run.run_id)) is not None:
            return known
        books = Books(run=RunId(run.run_id), plan=plan, rounds=tuple(rounds), ledgers=ledgers)
        checks = check_books(books)
        aggregate = store_arrays(self._blobs, model)
        empirical = audited(self._state.path, plan, aggregate, self._attack)
        folder = self._state.work / run.run_id
        shutil.rmtree(folder, ignore_errors=True)
        artifact, fidelity = self._build(plan, self._whole(run, model), folder)
        source = _Source(
            run=run,
            books=books,
            checks=checks,
            claim=claim_of(books),
            empirical=empirical,
            aggregate=aggregate,
        )
        published = self._publish(
            folder, lambda: self._stated(source, artifact, fidelity, now), go_on
        )
        shutil.rmtree(folder)
        return published

    def made_by(self, run_id: str) -> Published | None:
        """The release that a run has published already: a crash came before it was closed."""
        known = self._repository.made_by(CHANNEL, run_id)
        if known is None:
            return None
        return Published(version=known.release_version, figures=dict(known.fidelity))

    def _publish(
        self, folder: Path, manifest: Callable[[], ReleaseManifest], go_on: Callable[[], None]
    ) -> Published:
        """Takes the next number once more where another server has taken it meanwhile.

        It may have taken over this very run, and published it. Each number is given once: who has
        chosen one and then finds no release of the run is the only one to publish it.
        """
        for _ in range(_ATTEMPTS):
            offered = manifest()
            if (known := self.made_by(offered.run)) is not None:
                return known
            go_on()
            try:
                version = self._repository.publish(folder, offered, offered.created)
                return Published(version=version, figures=dict(offered.fidelity))
            except ConflictError:
                if self._repository.next_version(CHANNEL) == offered.version:
                    raise
        raise ConflictError("other servers release all the time; start the run again")

    def _whole(self, run: RunRow, model: Arrays) -> Arrays:
        """The trained arrays, and the constants with which they were trained."""
        if run.context_sha256 is None:
            raise InvalidInputError(f"run {run.run_id} has no public records; start it again")
        context = Content.from_bytes(self._blobs.read(Sha256(run.context_sha256)))
        return {**_constants(context), **model}

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

    def _stated(
        self, source: _Source, artifact: Artifact, fidelity: Fidelity, now: dt.datetime
    ) -> ReleaseManifest:
        """The manifest, with the privacy statement among its files."""
        draft = self._manifest(source, artifact, fidelity, now)
        data = statement_of(
            source.books, source.claim, draft, checks=source.checks, empirical=source.empirical
        ).to_bytes()
        write_atomically(artifact.folder / STATEMENT_NAME, data)
        facts = FileFacts(sha256=sha256_hex(data), size_bytes=len(data))
        return draft.model_copy(update={"files": {**draft.files, STATEMENT_NAME: facts}})

    def _manifest(
        self, source: _Source, artifact: Artifact, fidelity: Fidelity, now: dt.datetime
    ) -> ReleaseManifest:
        plan, claim = source.books.plan, source.claim
        return ReleaseManifest(
            version=self._repository.next_version(CHANNEL),
            channel=CHANNEL,
            run=source.run.run_id,
            plan_name=plan.name,
            plan_digest=plan.digest,
            rounds=tuple(record.number for record in source.books.rounds),
            epsilon=claim.epsilon,
            delta=claim.delta,
            unit=claim.unit,
            neighbouring_relation=RELATION,
            accountants=accountants(),
            base_model=BaseModelFacts(name=plan.model.base, digest=self._models.digest(plan)),
            aggregate_sha256=source.aggregate,
            files={
                name: FileFacts(sha256=file.sha256, size_bytes=file.size_bytes)
                for name, file in artifact.files.items()
            },
            fidelity={name: float(value) for name, value in fidelity.model_dump().items()},
            created=now,
            parent=source.run.parent_version or None,
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
            statement=self._statement(manifest),
            metadata={name: files.metadata(stored) for name, stored in names.items()},
        )

    def _statement(self, manifest: bytes) -> bytes | None:
        """The privacy statement among a release's files; releases of before have none."""
        facts = ReleaseManifest.parse(manifest).files.get(STATEMENT_NAME)
        return None if facts is None else self.files.targets.read(Sha256(facts.sha256))


def _constants(context: Content) -> Arrays:
    """The arrays of a tower that no training changes."""
    return {name: array for name, array in context.arrays[PUBLIC].items() if name != NEGATIVES}


def _alike(one: Arrays, other: Arrays) -> bool:
    return {name: array.shape for name, array in one.items()} == {
        name: array.shape for name, array in other.items()
    }
