"""How a membership lives: terms, renewal, joining again, and a ledger that was set back."""

import datetime as dt
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hansa.client.channel import open_channel, translated
from hansa.client.enrol import Terms, join, renew_if_due
from hansa.client.ledger_store import read_ledger
from hansa.client.site import Site
from hansa.core.errors import ConflictError, LedgerError, UnauthorisedError
from hansa.protos.v1 import federation_pb2 as pb
from tests.fakes.toy_federation import ToyApplication, toy_plan
from tests.integration.federation_harness import MODEL, Federation, utc_now, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        federation.start_server()
        yield federation


def _terms(federation: Federation, cap: float) -> Terms:
    return Terms(
        epsilon_cap=cap,
        delta=1e-5,
        base_models={MODEL: federation.folder / "model"},
        serving_port=0,
        update_period_s=60.0,
    )


def _renew(site: Site, now: dt.datetime) -> bool:
    own, address = site.credentials(), site.settings().server_address
    channel = open_channel(
        address,
        authority_pem=site.authority_pem(),
        key_pem=own.key_pem,
        certificate_pem=own.certificate_pem,
    )
    with channel, translated(address):
        return renew_if_due(site, channel, now)


def test_a_failed_join_does_not_let_another_cap_in(federation: Federation, tmp_path: Path) -> None:
    site = Site(tmp_path / "sites" / "harbour")
    used = federation.invite("harbour")
    federation.invite("harbour")
    with pytest.raises(UnauthorisedError, match="not valid any more"):
        join(site, used, _terms(federation, 3.0), utc_now())
    with pytest.raises(ConflictError, match="opened with cap 3"):
        join(site, federation.invite("harbour"), _terms(federation, 0.5), utc_now())
    join(site, federation.invite("harbour"), _terms(federation, 3.0), utc_now())
    assert read_ledger(site.ledger).cap_epsilon == 3.0


def test_a_young_certificate_is_not_renewed(federation: Federation) -> None:
    site = federation.join("harbour")
    before = site.credentials().certificate
    assert not _renew(site, utc_now())
    assert site.credentials().certificate == before


def test_a_certificate_is_renewed_in_the_last_third_of_its_life(federation: Federation) -> None:
    """It was issued 21 of its 30 days ago, by a server whose clock was shifted."""
    with federation.clock.shifted(dt.timedelta(days=-21)):
        site = federation.join("harbour", hours=600)
    before = site.credentials()
    assert _renew(site, utc_now())
    after = site.credentials()
    assert after.certificate != before.certificate
    assert after.key_pem == before.key_pem
    federation.start_clients({site: ToyApplication()})


def test_a_running_client_renews_by_itself_and_works_with_the_new_certificate(
    federation: Federation,
) -> None:
    with federation.clock.shifted(dt.timedelta(days=-21)):
        site = federation.join("harbour", hours=600)
    old = site.credentials()
    federation.start_clients({site: ToyApplication()})
    assert federation.finish(toy_plan(rounds=1, quorum=1)).state == "completed"
    assert site.credentials().certificate.not_valid_after_utc > utc_now() + dt.timedelta(days=29)
    with federation.caller(old) as caller, pytest.raises(grpc.RpcError, match="was replaced"):
        caller.federation.Register(pb.RegisterRequest(protocol="1"), timeout=20)


def test_a_revoked_merchant_joins_again_with_its_old_ledger(federation: Federation) -> None:
    site = federation.join("harbour")
    book = read_ledger(site.ledger).opening.public_key
    with federation.operator() as operator:
        operator.revoke("harbour")
    join(site, federation.invite("harbour"), _terms(federation, 8.0), utc_now())
    assert read_ledger(site.ledger).opening.public_key == book
    federation.start_clients({site: ToyApplication()})


def test_a_revoked_merchant_cannot_come_back_with_a_fresh_ledger(
    federation: Federation, tmp_path: Path
) -> None:
    federation.join("harbour")
    with federation.operator() as operator:
        operator.revoke("harbour")
    elsewhere = Site(tmp_path / "elsewhere")
    with pytest.raises(UnauthorisedError, match="another ledger"):
        join(elsewhere, federation.invite("harbour"), _terms(federation, 8.0), utc_now())


def test_a_site_does_not_become_another_merchants(federation: Federation) -> None:
    site = federation.join("harbour")
    with pytest.raises(ConflictError, match="belongs to harbour"):
        join(site, federation.invite("market"), _terms(federation, 8.0), utc_now())


def test_an_old_copy_of_the_ledger_is_refused_before_any_work(federation: Federation) -> None:
    site = federation.join("harbour")
    saved = site.path.with_name("saved")
    shutil.copytree(site.ledger, saved)
    client = federation.start_client(site, ToyApplication())
    federation.wait_online({"harbour"})
    federation.finish(toy_plan(rounds=2, quorum=1))
    client.tell_to_stop()
    assert client.wait() is None
    shutil.rmtree(site.ledger)
    shutil.copytree(saved, site.ledger)
    application = ToyApplication()
    fault = federation.start_client(site, application).wait()
    assert isinstance(fault, LedgerError)
    assert "old copy was restored" in str(fault)
    assert application.rounds == []


def test_a_revoked_site_goes_on_serving_and_says_why_it_takes_no_part(
    federation: Federation, tmp_path: Path
) -> None:
    site = federation.join("harbour")
    command = [str(Path(sys.executable).parent / "hansa-client"), "start", "--site", str(site.path)]
    with (tmp_path / "log").open("wb") as log:
        client = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        federation.wait_online({"harbour"}, timeout_s=60.0)  # the whole command, imports and all
        with federation.operator() as operator:
            operator.revoke("harbour")
        told = "takes no part in the federation"
        wait_until("the client's sentence", lambda: told in (tmp_path / "log").read_text())
        assert client.poll() is None
    finally:
        client.send_signal(signal.SIGTERM)
        code = client.wait(timeout=20)
    assert code == 0
