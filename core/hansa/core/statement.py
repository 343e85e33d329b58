"""The privacy statement of a release: what is promised to whom, by which mechanism, and what not.

It is a file of the release, ``privacy.json``: the manifest names its digest, and the signed targets
metadata names both. The server makes it from its books; nothing in it is typed in. It goes to every
merchant, so it names none: a contributor is a digest that only it, the server and the auditor can
tell, and the hash of its ledger up to which epsilon was counted. What it covers and leaves open is
said in keys, for which ``docs/privacy.md`` and the auditor's report have the words.

References:
    NIST SP 800-226, "Guidelines for Evaluating Differential Privacy Guarantees" (what to state).
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from hansa.core.canonical import canonical_json, digest, parse_json
from hansa.core.contract import NoiseMode
from hansa.core.empirical import EmpiricalResult
from hansa.core.errors import HansaError, UntrustedReleaseError
from hansa.core.ids import Sha256
from hansa.core.plan import RunPlan
from hansa.core.plan.part import PlanPart
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.release import BaseModelFacts, Digest, PlainName, ReleaseManifest, VersionNumber

STATEMENT_NAME: Final = "privacy.json"
MAX_STATEMENT_BYTES: Final = 32 << 20
MAX_CONTRIBUTORS: Final = 100_000

EpsilonText = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Keys = Annotated[tuple[Key, ...], Field(max_length=64)]
Word = Annotated[str, Field(pattern=r"^[a-z][a-z_-]{0,62}$")]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]

COVERED: Final = ("trained-updates", "earlier-runs-of-its-merchants")
"""What epsilon counts in every release; ``quality-report`` comes besides where there is one."""

NOT_PROTECTED: Final = (
    "membership",
    "timing",
    "refusals",
    "catalogue",
    "merchant-as-a-whole",
    "shopper-of-several-merchants",
    "facts-true-of-all",
)


class ReleaseFacts(PlanPart):
    """Of which release the statement speaks; all of it stands in the manifest too."""

    later: ClassVar[frozenset[str]] = frozenset({"parent"})

    channel: PlainName
    version: VersionNumber
    run: Annotated[str, Field(min_length=1, max_length=128)]
    plan_name: PlainName
    plan_digest: Digest
    rounds: Annotated[tuple[Whole, ...], Field(min_length=1)]
    base_model: BaseModelFacts
    aggregate_sha256: Digest
    created: AwareDatetime
    parent: VersionNumber | None = None
    """The release from whose model the run went on; its own statement speaks of that one."""

    @classmethod
    def of(cls, manifest: ReleaseManifest) -> "ReleaseFacts":
        """The facts of a manifest."""
        return cls.model_validate({name: getattr(manifest, name) for name in cls.model_fields})


class AccountantFigure(PlanPart):
    """What one accountant computed."""

    version: Annotated[str, Field(min_length=1, max_length=64)]
    epsilon: EpsilonText
    """The largest over the merchants, rounded up."""


class Claim(PlanPart):
    """The guarantee: (epsilon, delta) for whom, between which neighbours, by whose computation."""

    epsilon: EpsilonText
    """The largest over the merchants, rounded up, of all that each has booked until its head."""
    delta: Annotated[float, Field(gt=0.0, lt=0.01)]
    unit: Word
    neighbouring_relation: Word
    reference: PlainName
    """The accountant whose figure ``epsilon`` is."""
    accountants: Annotated[dict[PlainName, AccountantFigure], Field(min_length=1, max_length=8)]
    """An auditor recomputes with another one, which shares no code with these."""


class Mechanism(PlanPart):
    """How it was done: the public constants of the plan, and who had to be trusted."""

    sampler: Literal["poisson", "turns"]
    """Independent draws, or groups that take turns."""
    sampling_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    expected_shoppers: Whole
    records_per_shopper: Whole
    clip_norm: Positive
    noise_multiplier: Positive
    steps_per_round: Whole
    planned_rounds: Whole
    noise: NoiseMode
    """``local``: each merchant adds it all; ``distributed``: honest shares make it up together."""
    honest_shares: Whole | None
    """So many merchants must be honest, where noise is distributed."""
    colluders: Whole | None
    """So many may work with the server, where noise is distributed."""
    bands: Whole | None
    """Of the matrix that correlates noise; absent: independent noise."""
    report_noise_multiplier: Positive | None
    """Of the noised quality report; absent: no metric left a merchant."""
    secure_aggregation: bool
    """Whether the server saw sums alone, or each merchant's noised update."""

    @classmethod
    def of(cls, plan: RunPlan) -> "Mechanism":
        """The mechanism of a run plan."""
        privacy, shared = PrivacyPlan.of(plan), plan.privacy.distributed_noise
        return cls(
            sampler="poisson" if privacy.bands is None else "turns",
            sampling_rate=privacy.sampling_rate,
            expected_shoppers=privacy.expected_shoppers,
            records_per_shopper=privacy.records_per_shopper,
            clip_norm=privacy.clip_norm,
            noise_multiplier=privacy.noise_multiplier,
            steps_per_round=privacy.local_steps,
            planned_rounds=privacy.rounds,
            noise="local" if shared is None else "distributed",
            honest_shares=privacy.honest,
            colluders=None if shared is None else shared.colluders,
            bands=privacy.bands,
            report_noise_multiplier=privacy.evaluation_noise_multiplier,
            secure_aggregation=plan.federation.secure_aggregation is not None,
        )


class Contributor(PlanPart):
    """A merchant with an update in the model, without its name."""

    member: Digest
    """See ``member_digest``."""
    ledger_head: Digest
    """Hash of its last ledger entry that reserved something for this run: the chain binds all
    before it, and epsilon is counted up to it."""


class CodeFacts(PlanPart):
    """Which code aggregated and released; the sites' code is in the log and in contracts."""

    software: Annotated[str, Field(min_length=1, max_length=64)]
    server_sha256: Digest
    """See ``hansa.core.code_identity``."""


def _in_order(contributors: tuple[Contributor, ...]) -> tuple[Contributor, ...]:
    members = [one.member for one in contributors]
    if members != sorted(set(members)):
        raise ValueError("contributors stand once each, in the order of their digests")
    return contributors


class PrivacyStatement(PlanPart):
    """Everything that a release says about privacy."""

    form: Literal[1] = 1
    release: ReleaseFacts
    claim: Claim
    mechanism: Mechanism
    contributors: Annotated[
        tuple[Contributor, ...],
        Field(min_length=1, max_length=MAX_CONTRIBUTORS),
        AfterValidator(_in_order),
    ]
    code: CodeFacts
    covers: Keys
    """What epsilon counts."""
    not_protected: Keys
    """What the guarantee says nothing about."""
    checks: Keys
    """Which checks of its own evidence the server made, and all passed."""
    empirical: EmpiricalResult | None = None
    """The canary audit of this plan's training; absent: it was not run, so nobody attacked it."""

    @classmethod
    def parse(cls, data: bytes) -> "PrivacyStatement":
        """A statement from its canonical bytes.

        Raises:
            UntrustedReleaseError: the bytes are no statement, or not the canonical form of one.
        """
        if len(data) > MAX_STATEMENT_BYTES:
            raise UntrustedReleaseError("the privacy statement is larger than 32 MiB; refuse it")
        statement = cls._validated(data)
        if statement.to_bytes() != data:
            raise UntrustedReleaseError("the privacy statement is not in canonical form; refuse it")
        return statement

    @classmethod
    def _validated(cls, data: bytes) -> "PrivacyStatement":
        try:
            return cls.model_validate(parse_json(data, "the privacy statement"))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "its shape"
            raise UntrustedReleaseError(
                f"the privacy statement is not valid: {where}: {first['msg']}"
            ) from error
        except (HansaError, ValueError, RecursionError) as error:
            raise UntrustedReleaseError(f"the privacy statement is not valid: {error}") from error

    def to_bytes(self) -> bytes:
        """The canonical JSON form, which is what the manifest names."""
        body: dict[str, Any] = self.model_dump(mode="json")
        return canonical_json(body)


def member_digest(dataset_id: str, run: str, merchant: str) -> Sha256:
    """How a statement names a contributor.

    The data set's id is 256 random bits that stand in the merchant's ledger alone. Who holds that
    ledger can tell whose digest it is; other merchants, who do not, cannot even try names, nor tell
    that two runs had the same contributor.
    """
    return digest({"dataset": dataset_id, "merchant": merchant, "run": run})


def covered(plan: RunPlan) -> tuple[str, ...]:
    """The keys of what epsilon counts."""
    report = plan.privacy.evaluation_noise_multiplier is not None
    return (*COVERED, "quality-report") if report else COVERED


def not_protected(plan: RunPlan) -> tuple[str, ...]:
    """The keys of what is left open."""
    more: list[str] = []
    if plan.privacy.unit == "record":
        more.append("shopper-behind-records")
    if plan.privacy.distributed_noise is not None:
        more.append("collusion-beyond-the-plan")
    return (*NOT_PROTECTED, *more)


def ordered(contributors: Sequence[Contributor]) -> tuple[Contributor, ...]:
    """In the order that a statement needs, which tells nothing."""
    return tuple(sorted(contributors, key=lambda one: one.member))
