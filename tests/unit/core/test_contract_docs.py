"""docs/contract.md has one row a term, in their order, and an example that is a contract."""

import re
from pathlib import Path

import yaml

from hansa.core.contract import Contract, parse_contract

PAGE = (Path(__file__).parents[3] / "docs" / "contract.md").read_text()


def test_the_page_on_the_contract_has_each_term_once() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE)
    assert rows == list(Contract.model_fields)


def test_its_example_is_a_contract() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    contract = parse_contract(yaml.safe_load(example), "the page")
    assert (contract.month_epsilon, contract.metrics_share) == (2.0, 0.125)
    assert contract.hours["mon"] == ("00:00-05:30", "22:00-24:00")
