import datetime as dt

import pytest

from hansa.core.clocks import (
    in_words,
    own_certificate_sentence,
    server_certificate_sentence,
    skew_sentence,
)
from hansa.core.identity import make_authority

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
CERTIFICATE = make_authority("Anybody", now=NOW, valid_for=dt.timedelta(days=30)).certificate


@pytest.mark.parametrize("seconds", [0, 30, -30])
def test_a_small_difference_of_clocks_is_not_worth_a_word(seconds: int) -> None:
    assert skew_sentence(dt.timedelta(seconds=seconds)) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(31, "31 seconds ahead of"), (-7200, "2 hours behind")]
)
def test_a_wrong_clock_is_named_with_its_direction_and_remedy(seconds: int, words: str) -> None:
    sentence = skew_sentence(dt.timedelta(seconds=seconds))
    assert sentence is not None
    assert words in sentence
    assert "NTP" in sentence


def test_the_dates_of_the_own_certificate_explain_a_closed_line() -> None:
    early = own_certificate_sentence(CERTIFICATE, NOW - dt.timedelta(minutes=6))
    late = own_certificate_sentence(CERTIFICATE, NOW + dt.timedelta(days=31))
    assert early is not None
    assert late is not None
    assert "clock says 2026-03-01 11:54:00 UTC" in early
    assert "valid only from 2026-03-01 11:55:00 UTC" in early
    assert "expired at 2026-03-31 12:00:00 UTC" in late
    assert "new invitation" in late


def test_a_certificate_is_dated_back_by_five_minutes() -> None:
    assert own_certificate_sentence(CERTIFICATE, NOW - dt.timedelta(minutes=5)) is None


@pytest.mark.parametrize(
    ("details", "word"),
    [
        ("CERTIFICATE_VERIFY_FAILED: certificate is not yet valid: OK", "NTP"),
        ("CERTIFICATE_VERIFY_FAILED: certificate has expired: OK", "rotate-certificate"),
    ],
)
def test_the_tls_librarys_words_explain_a_refused_server(details: str, word: str) -> None:
    sentence = server_certificate_sentence(details, NOW)
    assert sentence is not None
    assert word in sentence
    assert "2026-03-01 12:00:00 UTC" in sentence


def test_other_words_of_the_tls_library_explain_nothing() -> None:
    assert server_certificate_sentence("Socket closed", NOW) is None


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (dt.timedelta(seconds=119), "119 seconds"),
        (dt.timedelta(minutes=119), "119 minutes"),
        (dt.timedelta(hours=47), "47 hours"),
        (dt.timedelta(days=2, hours=5), "2 days"),
    ],
)
def test_a_length_of_time_is_said_in_its_largest_fitting_unit(
    span: dt.timedelta, words: str
) -> None:
    assert in_words(span) == words
