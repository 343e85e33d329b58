"""The operator's offer of terms: signed, numbered, and never more than an offer."""

from pathlib import Path

import pytest

from hansa.core.contract import Contract, parse_offer
from hansa.core.errors import InvalidInputError, SignatureError
from hansa.core.signing import key_id_of, signing_key
from hansa.server.terms import OfferedTerms

KEY = signing_key(b"p" * 32)


def test_there_is_none_before_the_first(tmp_path: Path) -> None:
    terms = OfferedTerms(tmp_path / "terms.json")
    assert (terms.signed(), terms.read(KEY)) == (b"", None)


def test_each_offer_has_the_next_number_and_the_plan_keys_signature(tmp_path: Path) -> None:
    terms = OfferedTerms(tmp_path / "terms.json")
    terms.set(Contract(max_rounds=5), KEY)
    terms.set(Contract(max_rounds=6), KEY, note="more rounds")
    found = parse_offer(terms.signed(), key_id=key_id_of(KEY))
    assert (found.number, found.contract.max_rounds, found.note) == (2, 6, "more rounds")


def test_a_file_that_another_key_signed_is_not_continued(tmp_path: Path) -> None:
    terms = OfferedTerms(tmp_path / "terms.json")
    terms.set(Contract(), signing_key(b"s" * 32))
    with pytest.raises(SignatureError):
        terms.set(Contract(), KEY)


def test_a_note_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="at most 500 characters"):
        OfferedTerms(tmp_path / "terms.json").set(Contract(), KEY, note="x" * 501)
