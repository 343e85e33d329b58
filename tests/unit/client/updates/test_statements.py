"""No release is loaded without a privacy statement that fits it, and fits what the site knows."""

from pathlib import Path
from typing import Any

import pytest

from hansa.client.updates.guard import OwnBooks
from hansa.client.updates.installed import InstalledReleases, Pointer
from hansa.client.updates.updater import Updater
from hansa.core.canonical import canonical_json
from hansa.core.contract import Contract
from hansa.core.errors import ContractError, UntrustedReleaseError
from hansa.core.ids import MerchantId, ReleaseVersion, RunId, task_id
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import epsilon_pld
from hansa.core.privacy.ledger import Ledger, open_ledger
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.release import ReleaseManifest, epsilon_text
from hansa.core.signing import signing_key
from hansa.core.statement import STATEMENT_NAME, Contributor, PrivacyStatement, member_digest
from hansa.core.statement_rules import head_of_run
from tests.fakes.entropy import SeededEntropy
from tests.fakes.release_source import FakeReleaseSource
from tests.fakes.release_world import CHANNEL, TODAY, ReleaseWorld, manifest_of
from tests.fakes.statements import PLAN, statement_for

FILES = {"model.onnx": b"weights"}
HARBOUR = MerchantId("harbour")
RUN = RunId("run-1")
PRIVACY = PrivacyPlan.of(PLAN)
EPSILON = epsilon_text([epsilon_pld(PRIVACY.run_events(), 1e-5)])


@pytest.fixture
def world(tmp_path: Path) -> ReleaseWorld:
    return ReleaseWorld(tmp_path)


def updater_of(world: ReleaseWorld, own: OwnBooks | None = None) -> Updater:
    source = FakeReleaseSource(world.files)
    return Updater(world.folder / "site", source, world.root, guard=own)


def refuses(world: ReleaseWorld, sentence: str, own: OwnBooks | None = None) -> None:
    """The newest release is refused, and nothing changes."""
    updater = updater_of(world, own)
    before = updater.current()
    with pytest.raises((UntrustedReleaseError, ContractError), match=sentence):
        updater.refresh_and_fetch(CHANNEL)
    assert updater.current() == before


def book(rounds: int = 3) -> Ledger:
    """Harbour's ledger after so many rounds of the plan."""
    key = signing_key(b"h" * 32)
    ledger = open_ledger(cap_epsilon=8.0, delta=1e-5, key=key, entropy=SeededEntropy(), now=TODAY)
    for number in range(rounds):
        ledger.reserve(
            task_id(RUN, number, "train", HARBOUR),
            plan_digest=PLAN.digest,
            run=RUN,
            round_number=number,
            phase="train",
            events=[PRIVACY.round_event()],
            now=TODAY,
        )
    return ledger


def part_of(ledger: Ledger) -> Contributor:
    head = head_of_run(ledger.entries, RUN)
    assert head is not None
    member = member_digest(ledger.opening.dataset_id, RUN, HARBOUR)
    return Contributor(member=member, ledger_head=head)


def own_view(ledger: Ledger, contract: Contract | None = None) -> OwnBooks:
    def find(digest: str) -> RunPlan | None:
        return PLAN if digest == PLAN.digest else None

    return OwnBooks(
        merchant=HARBOUR,
        entries=ledger.entries,
        contract=contract or Contract(),
        find_plan=find,
    )


def manifest(**changes: Any) -> ReleaseManifest:
    facts = {"plan_digest": PLAN.digest, "epsilon": EPSILON, **changes}
    return manifest_of(FILES, 1, **facts)


def publish(world: ReleaseWorld, ledger: Ledger, offered: ReleaseManifest, **changes: Any) -> None:
    """A release that Harbour contributed to."""
    statement = statement_for(offered, contributors=(part_of(ledger),), **changes)
    world.publish(offered, FILES, statement=statement.to_bytes())


def test_a_release_without_a_statement_is_not_loaded(world: ReleaseWorld) -> None:
    world.publish_unstated(1, FILES)
    refuses(world, "release 1 has no privacy statement .* is not loaded; ask the operator")


def test_a_release_with_a_statement_is_loaded_and_states_it(world: ReleaseWorld) -> None:
    world.release(1)
    updater_of(world).refresh_and_fetch(CHANNEL)
    statement = InstalledReleases(world.folder / "site").current_statement()
    assert statement is not None
    assert statement.claim.epsilon == "1.9876"
    assert statement.empirical is None


def test_a_rollback_to_a_release_without_a_statement_is_not_loaded(world: ReleaseWorld) -> None:
    world.publish_unstated(1, FILES)
    world.release(2)
    updater_of(world).refresh_and_fetch(CHANNEL)
    world.repository.roll_back(CHANNEL, ReleaseVersion(1), TODAY)
    refuses(world, "release 3 restores release 1, which was made before releases had privacy")


def test_a_rollback_carries_the_statement_of_the_release_that_it_restores(
    world: ReleaseWorld,
) -> None:
    for version in (1, 2):
        world.release(version)
        updater_of(world).refresh_and_fetch(CHANNEL)
    world.repository.roll_back(CHANNEL, ReleaseVersion(1), TODAY)
    updater_of(world).refresh_and_fetch(CHANNEL)
    world.repository.roll_back(CHANNEL, ReleaseVersion(2), TODAY)
    world.repository.roll_back(CHANNEL, ReleaseVersion(3), TODAY)
    updater_of(world).refresh_and_fetch(CHANNEL)
    installed = InstalledReleases(world.folder / "site")
    statement, served = installed.current_statement(), installed.current_manifest()
    assert statement is not None
    assert served is not None
    assert (served.version, statement.release.version) == (5, 1)


def install_as_before(world: ReleaseWorld, offered: ReleaseManifest) -> Path:
    """What a client of before statements left on the disk."""
    folder = world.folder / "site/releases" / CHANNEL / str(offered.version)
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_bytes(offered.to_bytes())
    pointer = Pointer(channel=CHANNEL, version=offered.version, manifest_sha256=offered.digest)
    (world.folder / "site/current").write_bytes(canonical_json(pointer.model_dump()))
    return folder


def test_a_release_that_was_installed_before_there_were_statements_goes_on_being_served(
    world: ReleaseWorld,
) -> None:
    folder = install_as_before(world, world.publish_unstated(1, FILES))
    updater = updater_of(world)
    assert updater.refresh_and_fetch(CHANNEL) is None
    assert updater.current() == folder
    assert InstalledReleases(world.folder / "site").current_statement() is None


def test_a_damaged_release_of_before_is_mended_because_it_is_no_other(world: ReleaseWorld) -> None:
    folder = install_as_before(world, world.publish_unstated(1, FILES))
    (folder / "model.onnx").write_bytes(b"damaged")
    updater = updater_of(world)
    assert updater.refresh_and_fetch(CHANNEL) == folder
    assert (folder / "model.onnx").read_bytes() == b"weights"


def test_a_statement_that_was_edited_is_refused(world: ReleaseWorld) -> None:
    offered = world.release(1)
    blob = world.blob(offered, STATEMENT_NAME)
    blob.write_bytes(blob.read_bytes().replace(b'"1.9876"', b'"0.9876"'))
    refuses(world, "not those signed")


def test_a_statement_that_is_not_in_its_one_form_is_refused(world: ReleaseWorld) -> None:
    offered = manifest()
    spaced = statement_for(offered).to_bytes().replace(b'"claim":', b'"claim": ')
    world.publish(offered, FILES, statement=spaced)
    refuses(world, "not in canonical form")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_statement_are_refused(world: ReleaseWorld, data: bytes) -> None:
    world.publish(manifest(), FILES, statement=data)
    refuses(world, "the privacy statement is not valid")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("run", "run-2"),
        ("plan_digest", "e" * 64),
        ("rounds", (1, 2)),
        ("aggregate_sha256", "e" * 64),
        ("channel", "canary"),
        ("parent", 1),
    ],
)
def test_the_statement_of_another_release_is_refused(
    world: ReleaseWorld, field: str, value: object
) -> None:
    offered = manifest()
    wrong = statement_for(offered, release={field: value})
    world.publish(offered, FILES, statement=wrong.to_bytes())
    refuses(world, f"of another release: its {field} is")


@pytest.mark.parametrize(
    ("field", "value"),
    [("delta", 1e-6), ("unit", "record"), ("neighbouring_relation", "replace_one")],
)
def test_a_statement_that_claims_more_than_the_manifest_is_refused(
    world: ReleaseWorld, field: str, value: object
) -> None:
    offered = manifest()
    wrong = statement_for(offered, claim={field: value})
    world.publish(offered, FILES, statement=wrong.to_bytes())
    refuses(world, f"contradicts the manifest: its {field} is")


def test_a_statement_with_less_epsilon_than_the_manifest_is_refused(world: ReleaseWorld) -> None:
    offered = manifest()
    figure = {"version": "0.4.4", "epsilon": "0.1"}
    claim = {"epsilon": "0.1", "accountants": {"dp-accounting": figure}}
    wrong = statement_for(offered, claim=claim)
    world.publish(offered, FILES, statement=wrong.to_bytes())
    refuses(world, "contradicts the manifest: its epsilon is 0.1, not")


def test_a_contributor_finds_its_own_figures_in_the_statement(world: ReleaseWorld) -> None:
    ledger = book()
    publish(world, ledger, manifest())
    assert updater_of(world, own_view(ledger)).refresh_and_fetch(CHANNEL) is not None


def test_understated_epsilon_is_refused_by_a_contributor_whatever_the_manifest_says(
    world: ReleaseWorld,
) -> None:
    publish(world, book(), manifest(epsilon="0.0123"))
    refuses(world, "understates epsilon: it says 0.0123", own_view(book()))


def test_epsilon_that_is_counted_up_to_an_early_entry_only_is_understated(
    world: ReleaseWorld,
) -> None:
    early = epsilon_text([epsilon_pld([PRIVACY.round_event()], 1e-5)])
    publish(world, book(1), manifest(epsilon=early))
    refuses(world, "understates epsilon", own_view(book(3)))


def test_a_head_that_is_not_in_the_own_ledger_is_refused(world: ReleaseWorld) -> None:
    offered = manifest()
    forged = part_of(book()).model_copy(update={"ledger_head": "9" * 64})
    statement = statement_for(offered, contributors=(forged,))
    world.publish(offered, FILES, statement=statement.to_bytes())
    refuses(world, "reserved nothing for run-1 as entry 999999999999", own_view(book()))


def test_a_mechanism_that_is_not_the_plans_is_refused(world: ReleaseWorld) -> None:
    publish(world, book(), manifest(), mechanism={"noise_multiplier": 2.0})
    refuses(world, "contradicts the plan: its noise_multiplier is 2.0, not 1.0", own_view(book()))


@pytest.mark.parametrize(
    ("term", "value", "sentence"),
    [
        ("min_noise_multiplier", 1.5, "its noise multiplier is 1, and the contract's"),
        ("noise", ("distributed",), "its noise is local, and the contract's noise"),
        ("units", ("record",), "its statement protects each shopper"),
        ("max_sampling_rate", 0.01, "its sampling rate is 0.05"),
        ("max_delta", 1e-7, "its delta is 1e-05"),
        ("secure_aggregation_only", True, "the server saw each update"),
        ("releases", False, "the contract's releases is no"),
    ],
)
def test_a_release_outside_a_contributors_contract_is_refused(
    world: ReleaseWorld, term: str, value: object, sentence: str
) -> None:
    publish(world, book(), manifest())
    own = own_view(book(), Contract.model_validate({term: value}))
    refuses(world, sentence, own)


def test_a_merchant_without_an_update_in_the_model_loads_it_on_the_others_terms(
    world: ReleaseWorld,
) -> None:
    publish(world, book(), manifest())
    key = signing_key(b"o" * 32)
    other = open_ledger(cap_epsilon=8.0, delta=1e-5, key=key, entropy=SeededEntropy(9), now=TODAY)
    own = own_view(other, Contract(min_noise_multiplier=5.0))
    assert updater_of(world, own).refresh_and_fetch(CHANNEL) is not None


def test_a_statement_names_nobody(world: ReleaseWorld) -> None:
    ledger = book()
    text = statement_for(manifest(), contributors=(part_of(ledger),)).to_bytes()
    assert HARBOUR.encode() not in text
    assert ledger.opening.dataset_id.encode() not in text
    assert PrivacyStatement.parse(text).to_bytes() == text


def test_the_same_contributor_looks_different_in_every_run() -> None:
    dataset = book().opening.dataset_id
    digests = {member_digest(dataset, run, HARBOUR) for run in ("run-1", "run-2")}
    assert len(digests) == 2
