"""``doctor`` at both ends, over real installations of which one thing is broken at a time."""

import datetime as dt
import json
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hansa.client.cli import app as client_app
from hansa.client.doctor import examine as examine_site
from hansa.client.site import Site
from hansa.core.credentials import read_credentials, write_credentials
from hansa.core.diagnosis import Finding, Grade, healthy
from hansa.core.identity import Credentials, make_key
from hansa.server.authority import Authority
from hansa.server.cli import app as server_app
from hansa.server.doctor import examine as examine_server
from hansa.server.settings import StateFolder
from tests.fakes.toy_federation import ToyApplication
from tests.integration.federation_harness import Federation, Server, free_port, utc_now

pytestmark = pytest.mark.integration

OK, WARN, FAIL = Grade.OK, Grade.WARN, Grade.FAIL
DAY = dt.timedelta(days=1)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


@pytest.fixture
def server(federation: Federation) -> Server:
    return federation.start_server()


@pytest.fixture
def site(federation: Federation, server: Server) -> Site:
    return federation.join("harbour")


def found(findings: list[Finding]) -> dict[str, Finding]:
    """By name; each check has one of its own."""
    assert len({finding.name for finding in findings}) == len(findings)
    return {finding.name: finding for finding in findings}


def broken(findings: list[Finding]) -> dict[str, str]:
    """What failed, with the sentence and the remedy in one."""
    return {
        finding.name: f"{finding.sentence} | {finding.remedy}"
        for finding in findings
        if finding.grade is FAIL
    }


class TestTheClients:
    def test_a_site_that_is_well_has_no_failure_and_its_client_goes_on(
        self, federation: Federation, site: Site
    ) -> None:
        client = federation.start_client(site, ToyApplication())
        federation.wait_online({"harbour"})
        findings = examine_site(site)
        assert broken(findings) == {}
        names = found(findings)
        for name in ("certificate", "permissions", "ledger", "line", "server", "clock", "protocol"):
            assert names[name].grade is OK, names[name]
        assert client.fault is None

    def test_before_joining_it_looks_at_the_machine_and_says_how_to_join(
        self, tmp_path: Path
    ) -> None:
        findings = examine_site(Site(tmp_path / "nothing"))
        assert healthy(findings)
        assert [finding.name for finding in findings][-1] == "site"
        assert "join" in findings[-1].remedy
        assert not (tmp_path / "nothing").exists()

    def test_a_server_that_is_down_is_one_finding_among_all_others(
        self, server: Server, site: Site
    ) -> None:
        server.stop()
        findings = examine_site(site)
        assert list(broken(findings)) == ["line"]
        assert found(findings)["ledger"].grade is OK

    def test_a_revocation_is_told(self, federation: Federation, site: Site) -> None:
        with federation.operator() as operator:
            operator.revoke("harbour")
        assert "not a member" in broken(examine_site(site))["server"]

    def test_a_certificate_of_another_key_is_told(self, site: Site) -> None:
        own = site.credentials()
        mixed = Credentials(key=make_key(), certificate=own.certificate)
        write_credentials(site.identity, "merchant", mixed)
        assert "does not belong" in broken(examine_site(site))["certificate"]

    def test_a_certificate_about_to_expire_is_told(self, federation: Federation) -> None:
        with federation.clock.shifted(-21 * DAY):
            federation.start_server()
            site = federation.join("market", hours=600)
        assert found(examine_site(site))["certificate"].grade is WARN

    def test_an_expired_certificate_is_told_once_by_its_dates_and_once_by_the_line(
        self, federation: Federation, server: Server, site: Site
    ) -> None:
        authority = _authority(federation, server, utc_now() - 40 * DAY)
        request = (site.identity / "request.der").read_bytes()
        der, _ = authority.certify("harbour", request)
        (site.identity / "merchant.pem").write_bytes(_pem(der))
        failures = broken(examine_site(site))
        assert "expired" in failures["certificate"]
        assert "expired" in failures["server"]

    def test_a_key_that_others_can_read_is_named_with_the_command(self, site: Site) -> None:
        key = site.ledger / "ledger.key"
        key.chmod(0o644)
        assert f"chmod 600 {key}" in broken(examine_site(site))["permissions"]

    def test_an_edited_ledger_is_told(self, site: Site) -> None:
        book = site.ledger / "ledger.jsonl"
        whole = book.read_bytes()
        edited = whole.replace(b'"cap_epsilon":"8.0"', b'"cap_epsilon":"9.0"')
        assert edited != whole
        book.write_bytes(edited)
        assert "ledger" in broken(examine_site(site))

    def test_a_missing_base_model_is_named(self, federation: Federation, site: Site) -> None:
        shutil.rmtree(federation.folder / "model")
        assert str(federation.folder / "model") in broken(examine_site(site))["base models"]

    def test_a_port_that_another_program_has_is_told(self, site: Site) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            number = other.getsockname()[1]
            site.write(site.settings().model_copy(update={"serving_port": number}))
            assert "another program" in broken(examine_site(site))["service"]

    def test_a_service_that_is_not_running_is_a_warning(self, site: Site) -> None:
        site.write(site.settings().model_copy(update={"serving_port": free_port()}))
        assert found(examine_site(site))["service"].grade is WARN

    def test_settings_that_were_edited_into_something_else_are_told(self, site: Site) -> None:
        (site.path / "site.json").write_text('{"merchant": "harbour"}')
        assert "server_address" in broken(examine_site(site))["site"]

    def test_a_missing_file_hides_no_other_finding(self, site: Site) -> None:
        (site.identity / "authority.pem").unlink()
        findings = examine_site(site)
        assert {"certificate", "server"} <= broken(findings).keys()
        assert found(findings)["ledger"].grade is OK

    def test_the_command_prints_a_table_or_json_and_exits_with_0_or_1(
        self, server: Server, site: Site
    ) -> None:
        command = ["doctor", "--site", str(site.path)]
        assert CliRunner().invoke(client_app, command).exit_code == 0
        server.stop()
        told = CliRunner().invoke(client_app, [*command, "--json"])
        plain = json.loads(told.stdout)
        assert (told.exit_code, plain["ok"]) == (1, False)
        assert {"name", "grade", "sentence", "remedy"} == plain["findings"][0].keys()
        table = CliRunner().invoke(client_app, command)
        assert (table.exit_code, "what to do" in table.output) == (1, True)


def _authority(federation: Federation, server: Server, now: dt.datetime) -> Authority:
    return Authority(
        federation.state.authority,
        settings=server.parts.settings,
        tuf_root=server.parts.authority.tuf_root,
        now=lambda: now,
    )


def _pem(der: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


class TestTheServers:
    def test_a_running_server_has_no_failure(self, federation: Federation, server: Server) -> None:
        findings = examine_server(federation.state)
        assert broken(findings) == {}
        names = found(findings)
        for name in ("server", "database", "clock", "release root", "server certificate"):
            assert names[name].grade is OK, names[name]

    def test_before_init_it_looks_at_the_machine_and_says_how_to_begin(
        self, tmp_path: Path
    ) -> None:
        findings = examine_server(StateFolder(tmp_path / "nothing"))
        assert healthy(findings)
        assert "init" in findings[-1].remedy
        assert not (tmp_path / "nothing").exists()

    def test_a_server_that_is_not_running_is_a_warning(self, federation: Federation) -> None:
        findings = examine_server(federation.state)
        assert found(findings)["server"].grade is WARN
        assert "hansa-server start" in found(findings)["server"].remedy

    def test_another_program_on_its_port_is_told(self, federation: Federation) -> None:
        port = federation.state.settings().port
        with socket.create_server(("127.0.0.1", port)):
            assert "another program" in broken(examine_server(federation.state))["server"]

    def test_root_keys_that_still_lie_here_are_a_warning(self, federation: Federation) -> None:
        assert found(examine_server(federation.state))["offline keys"].grade is WARN
        shutil.rmtree(federation.state.offline_keys)
        assert found(examine_server(federation.state))["offline keys"].grade is OK

    def test_a_damaged_database_is_told_and_nothing_is_written(
        self, federation: Federation
    ) -> None:
        path = federation.state.database
        data = bytearray(path.read_bytes())
        data[4096 : 4096 + 2048] = b"\xff" * 2048
        path.write_bytes(data)
        assert "backup" in broken(examine_server(federation.state))["database"]
        assert path.read_bytes() == data

    def test_a_database_that_is_gone_is_told_and_not_made_anew(
        self, federation: Federation
    ) -> None:
        federation.state.database.unlink()
        assert "database" in broken(examine_server(federation.state))
        assert not federation.state.database.exists()

    def test_a_database_of_a_newer_version_is_told(self, federation: Federation) -> None:
        with sqlite3.connect(federation.state.database) as database:
            database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.close()
        assert "newer Hansa" in broken(examine_server(federation.state))["database"]

    def test_a_clock_behind_the_journal_is_told(
        self, federation: Federation, server: Server
    ) -> None:
        server.parts.journal.note("joined", merchant="harbour")
        tomorrow = (utc_now() + DAY).timestamp()
        with sqlite3.connect(federation.state.database) as database:
            database.execute("UPDATE events SET time = ?", (tomorrow,))
        database.close()
        assert "NTP" in broken(examine_server(federation.state))["clock"]

    @pytest.mark.parametrize("name", ["server", "operator"])
    def test_a_certificate_of_another_key_is_told_with_the_command(
        self, federation: Federation, name: str
    ) -> None:
        own = read_credentials(federation.state.authority, name)
        mixed = Credentials(key=make_key(), certificate=own.certificate)
        write_credentials(federation.state.authority, name, mixed)
        failures = broken(examine_server(federation.state))
        assert "rotate-certificate" in failures[f"{name} certificate"]

    def test_keys_that_others_can_read_are_named(self, federation: Federation) -> None:
        key = federation.state.authority / "authority.key.pem"
        key.chmod(0o640)
        assert str(key) in broken(examine_server(federation.state))["permissions"]

    def test_a_missing_base_model_or_catalogue_is_named(self, federation: Federation) -> None:
        gone = Path("/nowhere/catalogue.csv")
        settings = federation.state.settings().model_copy(update={"public_catalogue": gone})
        federation.state.write(settings)
        assert str(gone) in broken(examine_server(federation.state))["base models"]

    def test_release_metadata_that_is_damaged_is_told(self, federation: Federation) -> None:
        metadata = federation.state.releases / "metadata" / "timestamp.json"
        metadata.write_text("{}")
        assert "releases" in broken(examine_server(federation.state))

    def test_the_command_prints_a_table_or_json_and_exits_with_0_or_1(
        self, federation: Federation
    ) -> None:
        command = ["doctor", "--state", str(federation.state.path)]
        assert CliRunner().invoke(server_app, command).exit_code == 0
        (federation.state.authority / "server.pem").unlink()
        told = CliRunner().invoke(server_app, [*command, "--json"])
        plain = json.loads(told.stdout)
        assert (told.exit_code, plain["ok"]) == (1, False)
