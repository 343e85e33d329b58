"""What a wrong clock does to certificates, said in sentences.

TLS compares a certificate's dates with the clock of each side, and a side that refuses closes the
line without a word. So the words are made here, from what this side can see: its own certificate's
dates, its own clock, and how far that is from the server's.
"""

import datetime as dt

from cryptography import x509

MAX_SKEW = dt.timedelta(seconds=30)
"""Clocks that differ by more deserve a warning; certificates are dated back by five minutes."""

_SYNCHRONISE = "synchronise this machine's clock (for example with NTP)"


def skew_sentence(ahead: dt.timedelta) -> str | None:
    """What to do about a clock, or None while it is right.

    Args:
        ahead: this machine's clock minus the other side's; negative when it is behind.
    """
    if abs(ahead) <= MAX_SKEW:
        return None
    direction = "ahead of" if ahead > dt.timedelta() else "behind"
    return (
        f"this machine's clock is {in_words(abs(ahead))} {direction} the server's; {_SYNCHRONISE}"
    )


def own_certificate_sentence(shown: x509.Certificate, now: dt.datetime) -> str | None:
    """Why the other side refuses the certificate that this one shows, as far as dates tell."""
    begin, end = shown.not_valid_before_utc, shown.not_valid_after_utc
    if now < begin:
        return (
            f"this machine's clock says {_moment(now)}, but its certificate is valid only from "
            f"{_moment(begin)}; {_SYNCHRONISE}"
        )
    if now > end:
        return (
            f"this machine's certificate expired at {_moment(end)}, and its clock says "
            f"{_moment(now)}; if the clock is right, ask the operator for a new invitation and "
            "join again from the same folder"
        )
    return None


def server_certificate_sentence(details: str, now: dt.datetime) -> str | None:
    """Why this side refused the server's certificate, as far as the TLS library's text tells.

    Args:
        details: what gRPC says of a failed handshake; BoringSSL's words are in it.
        now: this machine's clock.
    """
    if "certificate is not yet valid" in details:
        return (
            f"the server's certificate is not valid yet by this machine's clock ({_moment(now)}); "
            f"{_SYNCHRONISE}"
        )
    if "certificate has expired" in details:
        return (
            f"the server's certificate has expired by this machine's clock ({_moment(now)}); if "
            "the clock is right, the operator renews it with 'hansa-server rotate-certificate'"
        )
    return None


def in_words(span: dt.timedelta) -> str:
    """A length of time in its largest fitting unit, rounded down."""
    seconds = int(span.total_seconds())
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"


def _moment(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
