"""Notices and receipts: one spelling, one key, one purpose."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.core.errors import HansaError, InvalidInputError, SignatureError
from hansa.core.receipt import (
    MAX_NOTICE_BYTES,
    NOTICE_DOMAIN,
    RECEIPT_DOMAIN,
    LedgerPlace,
    Notice,
    moment_of,
    read_notice,
    read_receipt,
)
from hansa.core.signing import Signed, key_id_of, sign, signing_key

KEY = signing_key(b"k" * 32)
OTHER = signing_key(b"o" * 32)
NOTICE = Notice(
    merchant="harbour",
    remedy="roll-back",
    time=moment_of(datetime(2026, 11, 24, tzinfo=UTC)),
    ledger=LedgerPlace(entries=1, head="a" * 64),
)


def test_a_notice_is_read_as_it_was_written() -> None:
    assert read_notice(NOTICE.signed(KEY), key_id=key_id_of(KEY)) == NOTICE


def test_a_notice_of_another_key_is_refused() -> None:
    with pytest.raises(SignatureError):
        read_notice(NOTICE.signed(OTHER), key_id=key_id_of(KEY))


def test_a_notice_is_no_receipt_and_no_other_signature_is_a_notice() -> None:
    assert NOTICE_DOMAIN != RECEIPT_DOMAIN
    with pytest.raises(SignatureError):
        read_receipt(NOTICE.signed(KEY), key_id=key_id_of(KEY))
    entry = sign(NOTICE.model_dump(mode="json"), KEY, domain="ledger entry").to_bytes()
    with pytest.raises(SignatureError):
        read_notice(entry, key_id=key_id_of(KEY))


@pytest.mark.parametrize("change", [{"remedy": "forget"}, {"more": 1}, {"merchant": "../x"}])
def test_signed_content_of_another_form_is_refused(change) -> None:
    payload = {**NOTICE.model_dump(mode="json"), **change}
    with pytest.raises(InvalidInputError):
        read_notice(sign(payload, KEY, domain=NOTICE_DOMAIN).to_bytes(), key_id=key_id_of(KEY))


def test_more_bytes_than_a_notice_has_are_not_parsed() -> None:
    with pytest.raises(InvalidInputError, match="more than"):
        read_notice(b"[" * (MAX_NOTICE_BYTES + 1), key_id=None)


@given(st.binary(max_size=200))
def test_whatever_bytes_come_the_error_is_one_of_ours(data: bytes) -> None:
    with pytest.raises(HansaError):
        read_notice(data, key_id=None)


@given(at=st.integers(0, len(NOTICE.signed(KEY)) - 1), bit=st.integers(0, 7))
def test_no_bit_of_a_notice_can_be_changed(at: int, bit: int) -> None:
    data = bytearray(NOTICE.signed(KEY))
    data[at] ^= 1 << bit
    with pytest.raises(HansaError):
        read_notice(bytes(data), key_id=key_id_of(KEY))
    assert Signed.parse(NOTICE.signed(KEY), "it").key_id == key_id_of(KEY)
