"""What a run must have come to: models, and merchants' ledgers."""

import numpy as np

from hansa.client.ledger_store import read_ledger
from hansa.client.site import Site
from hansa.core.privacy.entries import Accept, Open, Reserve
from hansa.core.update import Arrays
from tests.fakes.toy_federation import (
    FIRST_MODEL,
)


def moved(by: float) -> Arrays:
    """The first model, moved by a number that float32 holds exactly."""
    return {name: array + np.float32(by) for name, array in FIRST_MODEL.items()}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array), name


def bodies(site: Site) -> list[object]:
    """What the merchant's ledger says after its opening, and the contract of its joining."""
    opening, contract, *rest = read_ledger(site.ledger).entries
    assert isinstance(opening.body, Open)
    assert isinstance(contract.body, Accept)
    return [entry.body for entry in rest]


def reserved_rounds(site: Site) -> list[int]:
    return [body.round for body in bodies(site) if isinstance(body, Reserve)]
