"""One noise draw over all merchants, on the real plane: servers, clients, ledgers, secure sums."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from hansa.audit.verifier import verify
from hansa.client.entropy import SystemEntropy
from hansa.client.ledger_store import LedgerStore, read_ledger
from hansa.client.site import Site
from hansa.core.content import Content
from hansa.core.contract import Contract
from hansa.core.evidence import read_pack
from hansa.core.plan import RunPlan
from hansa.core.privacy.entries import Reserve
from hansa.core.privacy.events import DistributedGaussian
from hansa.core.privacy.mechanism import AesNormal
from hansa.core.privacy.noise_share import NOISED_SUM, NoiseShare
from tests.fakes.toy_federation import FIRST_MODEL, ToyApplication, toy_plan
from tests.integration.federation_harness import (
    Federation,
    Server,
    aggregates,
    refused,
    utc_now,
)

pytestmark = pytest.mark.integration

SUMS = {"bazaar": 10.0, "harbour": 20.0, "market": 40.0, "stall": 50.0}
"""Each merchant's clipped sum, the same in all four numbers; with 10 expected shoppers."""
RATE, CLIP, EXPECTED = 0.1, 1.0, 10


def shared_plan(**federation: object) -> RunPlan:
    body = toy_plan().model_dump(mode="json")
    body["training"] |= {"learning_rate": RATE}
    body["privacy"] |= {"noise_multiplier": 1.0, "distributed_noise": {"colluders": 1}}
    secure = {"fraction_bits": 32, "max_abs": 64.0}
    limits = {"rounds": 2, "quorum": 3, "secure_aggregation": secure}
    body["federation"] |= {**limits, **federation}
    return RunPlan.model_validate(body)


class SharingApplication(ToyApplication):
    """Adds its share of the noise to a sum that never changes."""

    def __init__(self, total: float) -> None:
        super().__init__()
        self._total = total

    def __call__(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
        self.rounds.append(1)
        share = NoiseShare.of(plan, 4)
        steps = share.integers(np.full(4, self._total), AesNormal.fresh(SystemEntropy()))
        numbers = {"metrics": {"num-examples": 1}}
        return Content(arrays={"arrays": {NOISED_SUM: steps}}, metrics=numbers).to_bytes()


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


@pytest.fixture
def server(federation: Federation) -> Server:
    return federation.start_server()


@pytest.fixture
def sites(federation: Federation, server: Server) -> dict[str, Site]:
    return {name: federation.join(name) for name in SUMS}


def consent(site: Site) -> None:
    with LedgerStore.open(site.ledger) as store:
        store.accept(Contract(noise=("distributed", "local")), now=utc_now())


def test_each_step_moves_the_model_by_the_mean_gradient_and_is_booked_as_what_it_is(
    federation: Federation, server: Server, sites: dict[str, Site]
) -> None:
    for site in sites.values():
        consent(site)
    federation.start_clients({sites[name]: SharingApplication(SUMS[name]) for name in SUMS})
    run = federation.finish(shared_plan())
    assert run.state == "completed", run.sentence
    step = -RATE * np.mean(list(SUMS.values())) / EXPECTED
    for number, aggregate in enumerate(aggregates(server, run.run_id), 1):
        moved = aggregate["weights"] - FIRST_MODEL["weights"]
        # A share's standard deviation is 1 / sqrt(2) of the clip norm; four merchants.
        noise = RATE * CLIP / EXPECTED * 1.0 / 2**0.5 / 4 * 4**0.5 * number**0.5
        assert np.abs(moved - number * step).max() < 7 * noise
        assert np.abs(moved - number * step).max() > 0
    for site in sites.values():
        entries = read_ledger(site.ledger).entries
        booked = [entry.body.events for entry in entries if isinstance(entry.body, Reserve)]
        event = DistributedGaussian(sampling_rate=0.1, noise_multiplier=1.0, steps=1, honest=2)
        assert booked == [(event,), (event,)]


def test_the_auditor_accepts_the_run_and_counts_it(
    federation: Federation, server: Server, sites: dict[str, Site]
) -> None:
    for site in sites.values():
        consent(site)
    federation.start_clients({sites[name]: SharingApplication(SUMS[name]) for name in SUMS})
    run = federation.finish(shared_plan(rounds=1))
    with federation.operator() as client:
        pack = read_pack(client.pack(run.run_id))
    report = verify(pack, plan_key=sites["market"].settings().plan_public_key)
    assert [check for check in report.checks if not check.passed] == []
    assert all(spend.epsilon_pld > 0.1 for spend in report.spends)


def test_a_merchant_that_agreed_to_its_own_noise_only_refuses(
    federation: Federation, server: Server, sites: dict[str, Site]
) -> None:
    """Three consent and suffice; the fourth never touches its data."""
    toys = {name: SharingApplication(SUMS[name]) for name in SUMS}
    for name in ("bazaar", "harbour", "market"):
        consent(sites[name])
    federation.start_clients({sites[name]: toys[name] for name in SUMS})
    run = federation.finish(shared_plan(rounds=1))
    assert run.state == "completed", run.sentence
    assert refused(run.rounds[0]) == {"stall": "contract"}
    assert toys["stall"].rounds == []


def test_a_step_with_too_few_survivors_is_given_up_without_release(
    federation: Federation, server: Server, sites: dict[str, Site]
) -> None:
    for name in ("bazaar", "harbour"):
        consent(sites[name])
    federation.start_clients({sites[name]: SharingApplication(SUMS[name]) for name in SUMS})
    run = federation.finish(shared_plan(rounds=1))
    assert run.state == "failed"
    assert aggregates(server, run.run_id) == []


def test_an_app_that_returns_an_update_without_a_share_of_the_noise_lets_nothing_out(
    federation: Federation, server: Server, sites: dict[str, Site]
) -> None:
    toys = {name: SharingApplication(SUMS[name]) for name in SUMS} | {"stall": ToyApplication()}
    for site in sites.values():
        consent(site)
    federation.start_clients({sites[name]: toys[name] for name in SUMS})
    run = federation.finish(shared_plan(rounds=1))
    assert run.state == "completed", run.sentence
    assert refused(run.rounds[0]) == {"stall": "failed"}
