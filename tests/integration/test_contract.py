"""Terms on a real line: accepted at joining, offered by the operator, in force by consent."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hansa.client.cli import app as client_app
from hansa.client.contract_offer import OfferShelf
from hansa.client.ledger_store import read_ledger
from hansa.client.site import Site
from hansa.core.code_identity import installed_code
from hansa.core.contract import Contract
from hansa.server.cli import app as server_app
from tests.fakes.toy_federation import ToyApplication, toy_plan
from tests.integration.federation_harness import Federation, refused, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


def command(app, *words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def offered(federation: Federation, site: Site):
    return OfferShelf(site.offered_terms, site.settings().plan_public_key).read()


def test_joining_accepts_the_defaults_for_the_code_that_is_here(federation: Federation) -> None:
    federation.start_server()
    accepted = read_ledger(federation.join("harbour").ledger).accepted
    assert accepted is not None
    assert accepted.contract == Contract(code=(installed_code(),))


def test_offered_terms_change_nothing_until_the_merchant_accepts_them(
    federation: Federation, tmp_path: Path
) -> None:
    federation.start_server()
    site, toy = federation.join("harbour"), ToyApplication()
    terms = tmp_path / "terms.yaml"
    terms.write_text("min_noise_multiplier: 25.0\n")
    state = str(federation.state.path)
    assert "terms 1" in command(server_app, "terms", "set", str(terms), "--state", state)
    client = federation.start_client(site, toy)
    wait_until("the offer", lambda: offered(federation, site) is not None)
    assert federation.finish(toy_plan("one", rounds=1, quorum=1)).state == "completed"
    client.tell_to_stop()
    client.wait()
    command(client_app, "contract", "accept", "--yes", "--site", str(site.path))
    federation.start_client(site, toy)
    run = federation.finish(toy_plan("two", rounds=1, quorum=1, deadline_s=3.0))
    assert run.state == "failed"
    assert toy.rounds == [1]
    assert all(refused(row) == {"harbour": "contract"} for row in run.rounds)
