"""Secure aggregation over the real plane: real servers, clients, certificates and ledgers."""

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from hansa.audit.verifier import verify
from hansa.client.ledger_store import read_ledger
from hansa.client.node.outbox import Letter, Outbox
from hansa.client.site import Site
from hansa.core.content import Content
from hansa.core.credentials import read_credentials
from hansa.core.evidence import read_pack
from hansa.core.identity import Credentials, identity_of, issue
from hansa.core.ids import MerchantId, RunId, Sha256, TaskId, task_id
from hansa.core.plan import RunPlan
from hansa.core.secure.protocol import KEYS, LIGHT_STAGES, STAGES, Setting
from hansa.core.secure.roster import Keys
from tests.fakes.hostile_certificates import HOSTILE
from tests.fakes.toy_federation import FIRST_MODEL, Crash, ToyApplication, toy_plan
from tests.integration.federation_harness import (
    FINISHED,
    TIMEOUT_S,
    Federation,
    Server,
    aggregates,
    refused,
    wait_until,
)

pytestmark = pytest.mark.integration

STEPS = {"bazaar": 1.0, "harbour": 2.0, "market": 4.0, "stall": 5.0}


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


@pytest.fixture
def sites(federation: Federation, server: Server) -> dict[str, Site]:
    return {name: federation.join(name) for name in STEPS}


@pytest.fixture
def server(federation: Federation) -> Server:
    return federation.start_server()


def secure_plan(**federation: object) -> RunPlan:
    return toy_plan(**{"secure_aggregation": {}, "quorum": 3, "rounds": 1, **federation})


def assert_moved(found: dict[str, np.ndarray], by: float) -> None:
    """The steps are multiples of 2^-24, so that the sums are exact; a mean of three is not."""
    for name, array in FIRST_MODEL.items():
        assert found[name].dtype == array.dtype
        assert np.allclose(found[name], array + by, rtol=0, atol=1e-6)


def ledger_bodies(site: Site) -> list[str]:
    """What the ledger's entries are, but for its opening and the contract's acceptance."""
    names = [type(entry.body).__name__ for entry in read_ledger(site.ledger).entries[1:]]
    return [name for name in names if name != "Accept"]


def secrets_of(site: Site) -> list[Path]:
    return sorted((site.path / "secure").glob("*.json"))


def stored(server: Server, run_id: str, stage: str, name: str) -> tuple[str, bytes]:
    """The state of a task, and what came back."""
    task = server.parts.tasks.find(task_id(RunId(run_id), 1, stage, MerchantId(name)), name)
    assert task is not None
    sha = task.result_sha256
    return task.state, server.parts.blobs.read(Sha256(sha)) if sha else b""


class TestASecureRound:
    def test_its_aggregate_is_the_mean_and_each_update_is_paid_for_once(
        self, federation: Federation, server: Server, sites: dict[str, Site]
    ) -> None:
        toys = {name: ToyApplication(step) for name, step in STEPS.items()}
        federation.start_clients({sites[name]: toys[name] for name in STEPS})
        run = federation.finish(secure_plan(rounds=2))
        assert (run.state, run.rounds_done) == ("completed", 2)
        for number, aggregate in enumerate(aggregates(server, run.run_id), 1):
            assert_moved(aggregate, 3.0 * number)
        for row in run.rounds:
            assert sorted(row.accepted) == sorted(row.cohort) == sorted(STEPS)
            assert refused(row) == {}
        for name, site in sites.items():
            assert toys[name].rounds == [1, 2]
            assert ledger_bodies(site) == ["Reserve", "Commit"] * 2

    def test_the_auditor_finds_each_masked_update_reserved_and_committed(
        self, federation: Federation, server: Server, sites: dict[str, Site]
    ) -> None:
        federation.start_clients({site: ToyApplication() for site in sites.values()})
        run = federation.finish(secure_plan())
        with federation.operator() as client:
            pack = read_pack(client.pack(run.run_id))
        report = verify(pack, plan_key=sites["market"].settings().plan_public_key)
        assert [check for check in report.checks if not check.passed] == []
        assert [(spend.reservations, spend.commits) for spend in report.spends] == [(1, 1)] * 4

    def test_the_server_holds_masked_numbers_only(
        self, federation: Federation, server: Server, sites: dict[str, Site]
    ) -> None:
        """Two merchants with the same update send quite different numbers, far from it."""
        federation.start_clients({site: ToyApplication(1.0) for site in sites.values()})
        run = federation.finish(secure_plan())
        step = np.uint64(1 << 24)
        seen = []
        for name in STEPS:
            content = Content.from_bytes(stored(server, run.run_id, "train", name)[1])
            assert (list(content.arrays), content.metrics, content.configs) == (["masked"], {}, {})
            values = content.arrays["masked"]["values"]
            assert values.dtype == np.uint64
            assert step not in values
            seen += values.tolist()
        assert len(set(seen)) == 4 * 4
        assert_moved(aggregates(server, run.run_id)[0], 1.0)

    def test_its_secrets_are_gone_from_the_sites_when_it_is_over(
        self, federation: Federation, server: Server, sites: dict[str, Site]
    ) -> None:
        clients = [federation.start_client(site, ToyApplication()) for site in sites.values()]
        federation.wait_online(set(STEPS))
        federation.finish(secure_plan(deadline_s=60.0))
        for client in clients:
            client.tell_to_stop()
            client.wait()
        # Three of four sufficed at the end; whoever was not waited for forgets at the next round.
        assert sum(len(secrets_of(site)) for site in sites.values()) <= 1

    def test_a_cohort_closes_the_round_and_the_others_are_surplus(
        self, federation: Federation, server: Server, sites: dict[str, Site]
    ) -> None:
        slow = threading.Event()
        toys = {name: ToyApplication(1.0) for name in STEPS}
        toys["stall"] = ToyApplication(1.0, hold=slow)
        federation.start_clients({sites[name]: toys[name] for name in STEPS})
        run = federation.finish(secure_plan(cohort=3, over_selection=0.34, deadline_s=30.0))
        slow.set()
        assert run.state == "completed", run.sentence
        assert sorted(run.rounds[0].accepted) == ["bazaar", "harbour", "market"]
        assert refused(run.rounds[0]) == {"stall": "surplus"}
        assert_moved(aggregates(server, run.run_id)[0], 1.0)


class TestDropOuts:
    def test_a_client_that_dies_after_its_shares_leaves_the_sum_of_the_others(
        self, federation: Federation, server: Server, sites: dict[str, Site]
    ) -> None:
        toys = {name: ToyApplication(step) for name, step in STEPS.items()}
        toys["stall"] = ToyApplication(5.0, die=True)
        federation.start_clients({sites[name]: toys[name] for name in STEPS})
        run = federation.finish(secure_plan(deadline_s=6.0))
        assert run.state == "completed", run.sentence
        assert refused(run.rounds[0]) == {"stall": "deadline"}
        assert sorted(run.rounds[0].accepted) == ["bazaar", "harbour", "market"]
        assert stored(server, run.run_id, "shares", "stall")[0] == "done"
        assert_moved(aggregates(server, run.run_id)[0], 7.0 / 3.0)

    def test_with_fewer_than_the_threshold_the_run_fails_and_nothing_is_unmasked(
        self, federation: Federation, server: Server, sites: dict[str, Site]
    ) -> None:
        toys = {name: ToyApplication(step) for name, step in STEPS.items()}
        for name in ("market", "stall"):
            toys[name] = ToyApplication(die=True)
        federation.start_clients({sites[name]: toys[name] for name in STEPS})
        run = federation.finish(secure_plan(deadline_s=6.0))
        assert (run.state, run.rounds_done) == ("failed", 0)
        assert "2 of 4 members sent a masked update, the threshold is 3" in run.sentence
        assert "nothing is revealed" in run.sentence
        assert "stall: deadline" in run.sentence
        assert server.parts.tasks.asked(run.run_id, 1, "survivors") == set()

    def test_a_merchant_without_budget_drops_out_and_is_asked_no_more(
        self, federation: Federation, server: Server, sites: dict[str, Site]
    ) -> None:
        poor, toy = federation.join("poor", cap=0.001), ToyApplication(9.0)
        others = {sites[name]: ToyApplication(step) for name, step in STEPS.items()}
        federation.start_clients({poor: toy, **others})
        run = federation.finish(secure_plan(rounds=2))
        assert run.state == "completed", run.sentence
        assert [refused(row) for row in run.rounds] == [{"poor": "budget"}, {}]
        assert ["poor" in row.cohort for row in run.rounds] == [True, False]
        assert (toy.rounds, ledger_bodies(poor)) == ([], ["Refuse"])
        assert_moved(aggregates(server, run.run_id)[1], 6.0)


class FaultyOutbox(Outbox):
    """Does something when the answer to one stage is about to be kept, or was just kept."""

    def __init__(self, folder: Path, stage: str, fault: Callable[[], None], *, after: bool) -> None:
        super().__init__(folder)
        self._stage = f"/{stage}/"
        self._fault = fault
        self._after = after

    def put(self, task: TaskId, content: bytes) -> Letter:
        return self._kept(super().put, task, content)

    def hold(self, task: TaskId, content: bytes) -> Letter:
        return self._kept(super().hold, task, content)

    def _kept(
        self, keep: Callable[[TaskId, bytes], Letter], task: TaskId, content: bytes
    ) -> Letter:
        if self._stage in task and not self._after:
            self._fault()
        letter = keep(task, content)
        if self._stage in task and self._after:
            self._fault()
        return letter


class GarbageOutbox(Outbox):
    """Sends bytes that are no content file, or another one, in one stage."""

    def __init__(self, folder: Path, stage: str, garbage: bytes) -> None:
        super().__init__(folder)
        self._stage = f"/{stage}/"
        self._garbage = garbage

    def put(self, task: TaskId, content: bytes) -> Letter:
        return super().put(task, self._garbage if self._stage in task else content)

    def hold(self, task: TaskId, content: bytes) -> Letter:
        return super().hold(task, self._garbage if self._stage in task else content)


class TestRubbish:
    def test_whoever_sends_it_is_left_out_by_name_and_stops_nobody(
        self, federation: Federation, server: Server, sites: dict[str, Site]
    ) -> None:
        """One breaks each of the first three stages; five of a roster of seven suffice."""
        rubbish = {
            "keys": b"\xff" * 100,
            "shares": Content(configs={"deal": {"x": 1}}).to_bytes(),
            "train": Content(arrays={"masked": {"values": np.zeros(3, np.uint64)}}).to_bytes(),
        }
        honest = {**sites, "wharf": federation.join("wharf")}
        steps = {**STEPS, "wharf": 3.0}
        federation.start_clients({honest[name]: ToyApplication(steps[name]) for name in honest})
        for stage, data in rubbish.items():
            federation.start_client(
                federation.join(f"bad-{stage}"),
                ToyApplication(100.0),
                lambda folder, stage=stage, data=data: GarbageOutbox(folder, stage, data),
            )
        federation.wait_online({*honest, *(f"bad-{stage}" for stage in rubbish)})
        run = federation.finish(secure_plan())
        assert run.state == "completed", run.sentence
        assert refused(run.rounds[0]) == {f"bad-{stage}": "rejected" for stage in rubbish}
        assert_moved(aggregates(server, run.run_id)[0], 3.0)


class ChangedKeysOutbox(Outbox):
    """Gives other keys, or shows another certificate, than its client does."""

    def __init__(self, folder: Path, change: Callable[[RunId, Keys], Keys]) -> None:
        super().__init__(folder)
        self._change = change

    def hold(self, task: TaskId, content: bytes) -> Letter:
        run, _, stage, name = task.split("/")
        if stage == KEYS:
            keys = Keys.parse(MerchantId(name), Content.from_bytes(content))
            content = self._change(RunId(run), keys).to_content().to_bytes()
        return super().hold(task, content)


class TestKeysThatWouldStopEverybodyElse:
    def test_whoever_gives_them_is_left_out_by_name_before_the_others_spend(
        self, federation: Federation, server: Server, sites: dict[str, Site]
    ) -> None:
        """A key of small order, a certificate that cannot be parsed, and one of last year."""
        plan = secure_plan()
        bad = {name: federation.join(f"bad-{name}") for name in ("order", "parse", "date")}
        authority = read_credentials(federation.state.authority, "authority")

        def of_small_order(run: RunId, keys: Keys) -> Keys:
            own = bad["order"].credentials()
            return Keys.signed(
                Setting.of(plan, run, 1),
                keys.merchant,
                {**keys.public, "masking": bytes(32)},
                sign=lambda message: own.key.sign(message, ec.ECDSA(SHA256())),
                certificate=keys.certificate,
            )

        def unparsable(_run: RunId, keys: Keys) -> Keys:
            own = bad["parse"].credentials()
            issuer = Credentials(key=own.key, certificate=authority.certificate)
            made = HOSTILE["an unknown version"](identity_of(own.certificate), own.key, issuer)
            return replace(keys, certificate=made)

        def expired(_run: RunId, keys: Keys) -> Keys:
            own = bad["date"].credentials()
            made = issue(
                authority,
                own.key.public_key(),
                identity_of(own.certificate),
                now=own.certificate.not_valid_before_utc - dt.timedelta(days=365),
                valid_for=dt.timedelta(days=30),
            )
            return replace(keys, certificate=made.public_bytes(Encoding.DER))

        federation.start_clients({sites[name]: ToyApplication(STEPS[name]) for name in sites})
        for name, change in (("order", of_small_order), ("parse", unparsable), ("date", expired)):
            federation.start_client(
                bad[name],
                ToyApplication(100.0),
                lambda folder, change=change: ChangedKeysOutbox(folder, change),
            )
        federation.wait_online({*sites, *(site.path.name for site in bad.values())})
        run = federation.finish(plan)
        assert run.state == "completed", run.sentence
        sentences = {task.merchant: task.sentence for task in run.rounds[0].refused}
        assert sentences == {
            "bad-order": "the masking key of bad-order is of small order: nobody can share a "
            "secret with it",
            "bad-parse": "bad-parse shows no usable certificate",
            "bad-date": "bad-date's certificate is not valid now; check the clocks",
        }
        assert_moved(aggregates(server, run.run_id)[0], 3.0)


def die() -> None:
    raise Crash


class TestKilledClients:
    @pytest.mark.parametrize(
        ("stage", "after"),
        [*((stage, False) for stage in STAGES if stage in LIGHT_STAGES), ("train", True)],
    )
    def test_it_goes_on_with_the_same_keys_and_pays_once(
        self,
        federation: Federation,
        server: Server,
        sites: dict[str, Site],
        stage: str,
        after: bool,
    ) -> None:
        """Killed between an answer and its way out; all four must answer to the end."""
        others = [name for name in STEPS if name != "stall"]
        federation.start_clients({sites[name]: ToyApplication(STEPS[name]) for name in others})
        toy = ToyApplication(STEPS["stall"])
        killed = federation.start_client(
            sites["stall"], toy, lambda folder: FaultyOutbox(folder, stage, die, after=after)
        )
        federation.wait_online(set(STEPS))
        plan = secure_plan(secure_aggregation={"threshold_fraction": 1.0}, quorum=4)
        run_id = federation.launch(plan)
        assert isinstance(killed.wait(), Crash)
        kept = [path.read_bytes() for path in secrets_of(sites["stall"])]
        assert len(kept) == 1
        federation.start_client(sites["stall"], toy)
        run = federation.wait_for(run_id)
        assert run.state == "completed", run.sentence
        assert_moved(aggregates(server, run_id)[0], 3.0)
        assert toy.rounds == [1]
        assert ledger_bodies(sites["stall"]) == ["Reserve", "Commit"]

    def test_killed_in_training_it_drops_out_and_its_budget_stays_spent(
        self, federation: Federation, server: Server, sites: dict[str, Site]
    ) -> None:
        others = [name for name in STEPS if name != "stall"]
        federation.start_clients({sites[name]: ToyApplication(STEPS[name]) for name in others})
        killed = federation.start_client(sites["stall"], ToyApplication(die=True))
        federation.wait_online(set(STEPS))
        run_id = federation.launch(secure_plan())
        assert isinstance(killed.wait(), Crash)
        toy = ToyApplication(5.0)
        federation.start_client(sites["stall"], toy)
        run = federation.wait_for(run_id)
        assert run.state == "completed", run.sentence
        assert refused(run.rounds[0]) == {"stall": "interrupted"}
        assert (toy.rounds, ledger_bodies(sites["stall"])) == ([], ["Reserve"])
        assert_moved(aggregates(server, run_id)[0], 7.0 / 3.0)


class TestKilledServers:
    @pytest.mark.parametrize(
        ("stage", "is_killed"),
        [
            ("keys", False),
            ("shares", True),
            ("train", False),
            ("survivors", False),
            ("unmask", True),
        ],
    )
    def test_the_next_server_takes_the_round_up_at_the_stage_where_it_broke_off(
        self, federation: Federation, stage: str, is_killed: bool
    ) -> None:
        """The last merchant's answer to the stage comes only after the server's restart.

        A process is killed as by kill -9; a server that is told to stop leaves its tasks the same.
        """
        first = federation.start_server_process() if is_killed else federation.start_server()
        sites = {name: federation.join(name) for name in STEPS}
        toys = {name: ToyApplication(step) for name, step in STEPS.items()}
        reached, hold = threading.Event(), threading.Event()

        def wait() -> None:
            reached.set()
            assert hold.wait(TIMEOUT_S)

        federation.start_clients({sites[name]: toys[name] for name in STEPS if name != "stall"})
        federation.start_client(
            sites["stall"],
            toys["stall"],
            lambda folder: FaultyOutbox(folder, stage, wait, after=True),
        )
        federation.wait_online(set(STEPS))
        plan = secure_plan(secure_aggregation={"threshold_fraction": 1.0}, quorum=4)
        run_id = federation.launch(plan)
        assert reached.wait(TIMEOUT_S)
        first.stop()
        hold.set()
        server = federation.start_server()
        runs = server.parts.runs
        wait_until("the run's end", lambda: runs.get(run_id).state in FINISHED, 40.0)
        assert runs.get(run_id).state == "completed", runs.get(run_id).sentence
        assert_moved(aggregates(server, run_id)[0], 3.0)
        for name, site in sites.items():
            assert toys[name].rounds == [1]
            assert ledger_bodies(site) == ["Reserve", "Commit"]
