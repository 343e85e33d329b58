"""Privacy statements that fit a manifest, for tests that do not begin with a server's books.

manifest, data = stated(manifest)                      # lists privacy.json
manifest, data = stated(manifest, claim={"epsilon": "0.1"})   # contradicts it
"""

from typing import Any

from hansa.core.canonical import sha256_hex
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.release import ReleaseManifest
from hansa.core.statement import (
    STATEMENT_NAME,
    Contributor,
    Mechanism,
    PrivacyStatement,
    ReleaseFacts,
    covered,
    not_protected,
)

PLAN = parse_plan(
    {
        "name": "autumn",
        "privacy": {"sampling_rate": 0.05, "expected_shoppers": 32, "noise_multiplier": 1.0},
        "federation": {"rounds": 3, "quorum": 2},
    },
    "test",
)
STRANGER = Contributor(member="1" * 64, ledger_head="2" * 64)


def statement_for(
    manifest: ReleaseManifest,
    *,
    plan: RunPlan = PLAN,
    contributors: tuple[Contributor, ...] = (STRANGER,),
    **changes: dict[str, Any],
) -> PrivacyStatement:
    """A statement that agrees with the manifest; ``changes`` replace fields of its parts."""
    name = "google-pld" if "google-pld" in manifest.accountants else min(manifest.accountants)
    figure = {"version": manifest.accountants[name], "epsilon": manifest.epsilon}
    parts: dict[str, Any] = {
        "release": ReleaseFacts.of(manifest).model_dump(),
        "claim": {
            "epsilon": manifest.epsilon,
            "delta": manifest.delta,
            "unit": manifest.unit,
            "neighbouring_relation": manifest.neighbouring_relation,
            "reference": name,
            "accountants": {name: figure},
        },
        "mechanism": Mechanism.of(plan).model_dump(),
        "code": {"software": "0.1.0", "server_sha256": "d" * 64},
    }
    for part, fields in changes.items():
        parts[part] = {**parts[part], **fields}
    return PrivacyStatement.model_validate(
        {
            **parts,
            "contributors": contributors,
            "covers": covered(plan),
            "not_protected": not_protected(plan),
            "checks": ("updates-are-booked",),
        }
    )


def listing(manifest: ReleaseManifest, data: bytes) -> ReleaseManifest:
    """The manifest with these bytes as its statement."""
    facts = {"sha256": sha256_hex(data), "size_bytes": len(data)}
    body = manifest.model_dump()
    body["files"] = {**body["files"], STATEMENT_NAME: facts}
    return ReleaseManifest.model_validate(body)


def stated(manifest: ReleaseManifest, **changes: Any) -> tuple[ReleaseManifest, bytes]:
    """The manifest with a statement of its own among its files, and the statement's bytes."""
    data = statement_for(manifest, **changes).to_bytes()
    return listing(manifest, data), data
