"""The commands around terms and budget: they show what holds, and change it on demand."""

import datetime as dt
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hansa.client.cli import app
from hansa.client.contract_offer import OfferShelf, takes_releases, with_this_code
from hansa.client.ledger_store import LedgerStore, read_ledger
from hansa.client.site import Site, SiteSettings
from hansa.core.code_identity import installed_code
from hansa.core.contract import TERMS_DOMAIN, Contract, Offer
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy.events import Gaussian
from hansa.core.signing import key_id_of, sign, signing_key
from tests.fakes.entropy import SeededEntropy

KEY = signing_key(b"p" * 32)
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    more = {"cap_epsilon": 8.0, "delta": 1e-5, "entropy": SeededEntropy(1), "now": NOW}
    with LedgerStore.create(site.ledger, **more) as store:
        store.accept(Contract(plan_epsilon=3.0, code=(installed_code(),)), now=NOW)
        store.reserve(
            TaskId("autumn-0001/1/train/mill"),
            plan_digest=Sha256("a" * 64),
            run=RunId("autumn-0001"),
            round_number=1,
            phase="train",
            events=[Gaussian(noise_multiplier=5.0, releases=1)],
            now=NOW,
        )
    site.write(
        SiteSettings(
            merchant="mill",
            server_address="127.0.0.1:1",
            plan_public_key=key_id_of(KEY),
            base_models={},
        )
    )
    return site


def run(site: Site, *words: str, answer: str | None = None) -> str:
    result = CliRunner().invoke(app, [*words, "--site", str(site.path)], input=answer)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def offer(site: Site, contract: Contract, number: int = 1) -> None:
    body = Offer(number=number, contract=contract, note="autumn").model_dump(mode="json")
    signed = sign(body, KEY, domain=TERMS_DOMAIN).to_bytes()
    OfferShelf(site.offered_terms, key_id_of(KEY)).note(signed)


def contract_of(site: Site) -> Contract:
    return read_ledger(site.ledger).contract


def test_show_prints_the_terms_in_force(site: Site) -> None:
    assert json.loads(run(site, "contract", "show", "--json"))["plan_epsilon"] == 3.0
    assert "plan_epsilon" in run(site, "contract", "show")


def test_diff_says_what_an_offer_would_change_and_that_it_allows_more(site: Site) -> None:
    offer(site, Contract(plan_epsilon=5.0, max_rounds=100))
    found = json.loads(run(site, "contract", "diff", "--json"))
    looser = {one["term"]: one["looser"] for one in found["changes"]}
    assert looser == {"plan_epsilon": True, "max_rounds": False}
    assert contract_of(site).plan_epsilon == 3.0


def test_accept_puts_the_offer_into_force_and_keeps_which_code_may_run(site: Site) -> None:
    offer(site, Contract(plan_epsilon=5.0), number=4)
    run(site, "contract", "accept", "--yes")
    accepted = read_ledger(site.ledger).accepted
    assert accepted is not None
    assert (accepted.offer, accepted.contract.plan_epsilon) == (4, 5.0)
    assert accepted.contract.code == (installed_code(),)


def test_whoever_does_not_agree_changes_nothing(site: Site) -> None:
    offer(site, Contract(plan_epsilon=5.0))
    before = len(read_ledger(site.ledger).entries)
    assert "Aborted" in run(site, "contract", "accept", answer="n\n")
    assert len(read_ledger(site.ledger).entries) == before


def test_a_merchants_own_file_is_accepted_instead_of_the_offer(site: Site) -> None:
    offer(site, Contract(plan_epsilon=5.0))
    own = site.path / "own.yaml"
    own.write_text("month_epsilon: 1.5\nreleases: false\n")
    run(site, "contract", "accept", "--file", str(own), "--yes")
    assert (contract_of(site).month_epsilon, contract_of(site).plan_epsilon) == (1.5, None)
    assert contract_of(site).code == (installed_code(),)
    assert not takes_releases(site)


def test_this_code_alone_keeps_all_other_terms(site: Site) -> None:
    with LedgerStore.open(site.ledger) as store:
        store.accept(Contract(max_rounds=7, code=("c" * 64,)), now=NOW)
    assert "does no work" in " ".join(run(site, "contract", "show").split())
    run(site, "contract", "accept", "--this-code", "--yes")
    assert contract_of(site) == Contract(max_rounds=7, code=(installed_code(),))


def test_code_that_the_merchant_named_stays_as_it_is_named() -> None:
    assert with_this_code(Contract(code=())).code == ()
    assert with_this_code(Contract()).code == (installed_code(),)


def test_the_budget_shows_every_cap_and_the_contract(site: Site) -> None:
    offer(site, Contract(), number=2)
    spent = json.loads(run(site, "budget", "--json"))
    assert (spent["epsilon_cap"], spent["unit"], spent["offered"]) == (8.0, "shopper", 2)
    scopes = {one["scope"]: one for one in spent["scopes"]}
    assert (scopes["plan"]["name"], scopes["plan"]["epsilon_cap"]) == ("autumn", 3.0)
    assert scopes["plan"]["epsilon_spent"] == spent["epsilon_spent"] != "0.00"
    assert (scopes["month"]["epsilon_spent"], scopes["month"]["epsilon_cap"]) == ("0.00", None)
    assert scopes["metrics"]["epsilon_cap"] == 2.0
    assert spent["contract"] == contract_of(site).digest
    text = run(site, "budget")
    assert "The operator offers new terms (2)" in text


def test_raising_the_cap_says_when_the_contract_still_allows_less(site: Site) -> None:
    with LedgerStore.open(site.ledger) as store:
        store.accept(Contract(lifetime_epsilon=4.0), now=NOW)
    assert "still allows 4" in run(site, "raise-cap", "9", "--yes")


def test_without_an_offer_there_is_nothing_to_accept(site: Site) -> None:
    result = CliRunner().invoke(app, ["contract", "accept", "--site", str(site.path)])
    assert "offers no terms" in str(result.exception)
