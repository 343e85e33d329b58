"""Two servers at one PostgreSQL: both serve the same run, and either may die."""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from hansa.client.ledger_store import read_ledger
from hansa.client.site import Site
from hansa.core.privacy.entries import Reserve
from hansa.server.settings import StateFolder
from hansa.server.state.database import open_database
from hansa.server.state.runs import Runs
from tests.fakes.object_store import running_object_store
from tests.fakes.postgres import Postgres
from tests.fakes.toy_federation import FIRST_MODEL, ToyApplication, toy_plan
from tests.integration.federation_harness import (
    Federation,
    Server,
    ServerProcess,
    aggregates,
    wait_until,
)

pytestmark = pytest.mark.integration

NAMES = ("harbour", "market")
LEASE_S = 3.0
ROUNDS = 4


@pytest.fixture
def url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
def federation(tmp_path: Path, url: str) -> Iterator[Federation]:
    with Federation(tmp_path, servers=2, database_url=url, run_lease_s=LEASE_S) as federation:
        yield federation


@pytest.fixture
def owner_of(url: str) -> Callable[[str], int]:
    return lambda run_id: owner(url, run_id)


def owner(url: str, run_id: str) -> int:
    """The process that carries out a run, once one does."""
    engine = open_database(url)
    runs = Runs(engine, lambda: 0.0)
    wait_until("an owner", lambda: runs.get(run_id).owner != "")
    name = runs.get(run_id).owner
    engine.dispose()
    return int(name.split(":")[1])


def at(site: Site, *ports: int) -> Site:
    """The site, whose client tries the servers on these ports in this order."""
    address = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    site.write(site.settings().model_copy(update={"server_address": address}))
    return site


def paid_for(site: Site) -> list[str]:
    """The tasks that the site reserved, in order."""
    entries = read_ledger(site.ledger).entries
    return [entry.body.id for entry in entries if isinstance(entry.body, Reserve)]


def check_trained_once(run_id: str, sites: list[Site], toys: list[ToyApplication]) -> None:
    rounds = list(range(1, ROUNDS + 1))
    assert [toy.rounds for toy in toys] == [rounds] * len(toys)
    for site in sites:
        name = site.path.name
        assert paid_for(site) == [f"{run_id}/{number}/train/{name}" for number in rounds]


def test_clients_of_either_server_take_part_in_the_same_run(federation: Federation) -> None:
    servers = [federation.start_server(number) for number in range(2)]
    pairs = zip(NAMES, federation.ports, strict=True)
    sites = [at(federation.join(name), port) for name, port in pairs]
    toys = [ToyApplication(1.0), ToyApplication(3.0)]
    federation.start_clients(dict(zip(sites, toys, strict=True)))
    run = federation.finish(toy_plan(rounds=ROUNDS))
    assert (run.state, len(run.rounds)) == ("completed", ROUNDS)
    assert all(sorted(one.accepted) == list(NAMES) for one in run.rounds)
    check_trained_once(run.run_id, sites, toys)
    for server in servers:
        # Each round adds the mean of 1 and 3, in float32 exactly.
        last = aggregates(server, run.run_id)[-1]["weights"]
        assert np.array_equal(last, FIRST_MODEL["weights"] + np.float32(2.0 * ROUNDS))


def test_the_other_server_finishes_the_run_of_one_that_was_killed(
    federation: Federation, owner_of: Callable[[str], int]
) -> None:
    processes = [federation.start_server_process(number) for number in range(2)]
    first, second = federation.ports
    sites = [
        at(federation.join("harbour"), first, second),
        at(federation.join("market"), second, first),
    ]
    hold = threading.Event()
    toys = [ToyApplication(1.0, hold=hold, hold_from=3) for _ in sites]
    federation.start_clients(dict(zip(sites, toys, strict=True)))
    run_id = federation.launch(toy_plan(rounds=ROUNDS))
    for toy in toys:
        assert toy.held.wait(20.0)
    process_of(owner_of(run_id), processes).stop()
    hold.set()
    run = federation.wait_for(run_id)
    assert (run.state, len(run.rounds)) == ("completed", ROUNDS)
    assert all(sorted(one.accepted) == list(NAMES) for one in run.rounds)
    check_trained_once(run_id, sites, toys)


def test_two_machines_share_the_database_and_the_bucket_alone(tmp_path: Path, url: str) -> None:
    """Each has a copy of the keys; contents and updates reach the other one through S3."""
    with running_object_store() as store:
        shared = {"database_url": url, "blobs_url": store.url("blobs"), "run_lease_s": LEASE_S}
        with Federation(tmp_path, servers=2, **shared) as federation:
            states = [federation.state, StateFolder(tmp_path / "second-machine")]
            shutil.copytree(states[0].path, states[1].path)
            processes = [
                federation.start_server_process(number, state)
                for number, state in enumerate(states)
            ]
            pairs = zip(NAMES, federation.ports, strict=True)
            sites = [at(federation.join(name), port, *federation.ports) for name, port in pairs]
            hold = threading.Event()
            toys = [ToyApplication(1.0, hold=hold, hold_from=3) for _ in sites]
            federation.start_clients(dict(zip(sites, toys, strict=True)))
            run_id = federation.launch(toy_plan(rounds=ROUNDS))
            for toy in toys:
                assert toy.held.wait(20.0)
            process_of(owner(url, run_id), processes).stop()
            hold.set()
            run = federation.wait_for(run_id)
            assert (run.state, len(run.rounds)) == ("completed", ROUNDS)
            check_trained_once(run_id, sites, toys)


def test_a_server_that_slept_through_its_lease_leaves_the_run_to_the_other(
    federation: Federation, owner_of: Callable[[str], int]
) -> None:
    """It wakes in the middle of a round that is no longer its own, and must not close it."""
    processes = [federation.start_server_process(number) for number in range(2)]
    sites = [federation.join(name) for name in NAMES]
    run_id = federation.launch(toy_plan(rounds=ROUNDS, deadline_s=60.0))
    sleeper = process_of(owner_of(run_id), processes)
    awake = federation.ports[1 - processes.index(sleeper)]
    hold = threading.Event()
    toys = [ToyApplication(1.0, hold=hold, hold_from=2) for _ in sites]
    for site, toy in zip(sites, toys, strict=True):
        federation.start_client(at(site, awake), toy)
    for toy in toys:
        assert toy.held.wait(20.0)
    sleeper.signal(signal.SIGSTOP)
    federation.address = f"127.0.0.1:{awake}"
    try:
        wait_until("another owner", lambda: owner_of(run_id) != sleeper.pid)
    finally:
        sleeper.signal(signal.SIGCONT)
    hold.set()
    run = federation.wait_for(run_id)
    assert (run.state, len(run.rounds)) == ("completed", ROUNDS)
    check_trained_once(run_id, sites, toys)


def process_of(pid: int, processes: list[ServerProcess]) -> ServerProcess:
    (found,) = [process for process in processes if process.pid == pid]
    return found


def test_a_server_that_is_stopped_hands_its_run_over_at_once(tmp_path: Path, url: str) -> None:
    """The lease would end long after the test."""
    with Federation(tmp_path, servers=2, database_url=url, run_lease_s=600.0) as federation:
        servers = [federation.start_server(number) for number in range(2)]
        sites = [at(federation.join(name), *federation.ports) for name in NAMES]
        hold = threading.Event()
        toys = [ToyApplication(1.0, hold=hold, hold_from=2) for _ in sites]
        federation.start_clients(dict(zip(sites, toys, strict=True)))
        run_id = federation.launch(toy_plan(rounds=ROUNDS))
        for toy in toys:
            assert toy.held.wait(20.0)
        carrying(servers, run_id).stop()
        hold.set()
        assert federation.wait_for(run_id).state == "completed"
        check_trained_once(run_id, sites, toys)


def carrying(servers: list[Server], run_id: str) -> Server:
    """The server that works on the run."""
    owner = servers[0].parts.runs.get(run_id).owner
    (found,) = [server for server in servers if server.parts.name == owner]
    return found


def test_two_runs_are_carried_out_at_the_same_time(
    federation: Federation, owner_of: Callable[[str], int]
) -> None:
    processes = [federation.start_server_process(number) for number in range(2)]
    runs = [federation.launch(toy_plan(name, deadline_s=60.0)) for name in ("first", "second")]
    assert {owner_of(run_id) for run_id in runs} == {process.pid for process in processes}


def test_a_database_that_drops_every_connection_ends_no_run(
    federation: Federation, postgres: Postgres, url: str
) -> None:
    """As a fail-over to a replica does."""
    for number in range(2):
        federation.start_server(number)
    sites = [at(federation.join(name), *federation.ports) for name in NAMES]
    hold = threading.Event()
    toys = [ToyApplication(1.0, hold=hold, hold_from=2) for _ in sites]
    federation.start_clients(dict(zip(sites, toys, strict=True)))
    run_id = federation.launch(toy_plan(rounds=ROUNDS))
    for toy in toys:
        assert toy.held.wait(20.0)
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    postgres.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    hold.set()
    assert federation.wait_for(run_id).state == "completed"
    check_trained_once(run_id, sites, toys)
