"""What ``doctor`` says of an installation: one small rule a check, from facts to a finding.

The commands at both ends gather the facts (files, sockets, clocks) and show the findings; nothing
here looks at the machine. A finding that is not ok says what to do.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from rich.table import Table
from rich.text import Text

from hansa.core.clocks import MAX_SKEW, in_words, own_certificate_sentence, skew_sentence
from hansa.core.identity import Credentials, due_from
from hansa.core.wire_version import WireVersion

OLDEST_PYTHON = (3, 11)
_DATED_BACK = dt.timedelta(minutes=5)
_MIB = 1 << 20
_LITTLE_BYTES, _TOO_LITTLE_BYTES = 2048 * _MIB, 256 * _MIB
_LITTLE_FILES = 10_000


class Grade(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """It works today; look into it."""
    FAIL = "fail"
    """It does not work, or is not safe."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    name: str
    grade: Grade
    sentence: str
    """What was found."""
    remedy: str = ""
    """What to do; empty only where all is well."""


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed; warnings are allowed."""
    return all(finding.grade is not Grade.FAIL for finding in findings)


def as_plain(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings for machines."""
    return {"ok": healthy(findings), "findings": [asdict(finding) for finding in findings]}


def as_table(findings: Sequence[Finding]) -> Table:
    """The findings for people."""
    table = Table("check", "", "what was found", "what to do")
    for finding in findings:
        colour = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "red"}[finding.grade]
        grade = Text(finding.grade, style=colour)
        table.add_row(finding.name, grade, Text(finding.sentence), Text(finding.remedy))
    return table


def problem(name: str, error: str | None, *, well: str, remedy: str = "") -> Finding:
    """A check that somebody else has made: its error, or what is well.

    Args:
        name: of the check.
        error: one sentence; None when there was none.
        well: the sentence without an error.
        remedy: for the error, where its sentence does not say what to do.
    """
    if error is None:
        return _ok(name, well)
    return _fail(name, error, remedy or "do what the sentence says")


def not_set_up(name: str, sentence: str, remedy: str) -> Finding:
    """Nothing is configured here yet: no fault, but there is little to check."""
    return _warn(name, sentence, remedy)


def certificate(
    name: str,
    own: Credentials,
    authority: x509.Certificate,
    *,
    now: dt.datetime,
    renews_itself: bool,
    remedy: str,
) -> Finding:
    """A key and its certificate: they belong together, come from the authority, and are valid.

    Args:
        name: of the check.
        own: the key and the certificate.
        authority: the pinned one.
        now: this machine's clock.
        renews_itself: a running process renews it in the last third of its life.
        remedy: how its holder gets another one.
    """
    shown = own.certificate
    if not own.belong_together:
        return _fail(name, "the key does not belong to the certificate", remedy)
    if not _issued_by(shown, authority):
        return _fail(name, "the certificate was not issued by this federation's authority", remedy)
    if (sentence := own_certificate_sentence(shown, now)) is not None:
        return _fail(name, sentence, remedy)
    left = in_words(shown.not_valid_after_utc - now)
    if now >= due_from(shown):
        waits = "; it should have been renewed" if renews_itself else ""
        return _warn(name, f"expires in {left}{waits}", remedy)
    return _ok(name, f"valid for {left} more")


def authority_certificate(authority: x509.Certificate, *, now: dt.datetime) -> Finding:
    """The federation's own authority, on which everything hangs."""
    name, end = "authority", authority.not_valid_after_utc
    new_federation = "the operator must begin a federation with a new authority in time"
    if (sentence := own_certificate_sentence(authority, now)) is not None:
        return _fail(name, sentence, new_federation)
    if end - now < dt.timedelta(days=365):
        return _warn(name, f"expires in {in_words(end - now)}", new_federation)
    return _ok(name, f"valid for {in_words(end - now)} more")


def expiry(
    name: str, end: dt.datetime, *, now: dt.datetime, early: dt.timedelta, remedy: str
) -> Finding:
    """Signed metadata that expires: a warning comes ``early`` before its end."""
    if now >= end:
        return _fail(name, f"expired {in_words(now - end)} ago", remedy)
    grade = Grade.WARN if end - now < early else Grade.OK
    sentence = f"valid for {in_words(end - now)} more"
    return Finding(
        name=name, grade=grade, sentence=sentence, remedy=remedy if grade is Grade.WARN else ""
    )


def clock(ahead: dt.timedelta | None) -> Finding:
    """This machine's clock beside the server's; None when the server did not tell its time.

    Certificates are dated back by five minutes: a clock that is further behind refuses fresh ones.
    """
    if ahead is None:
        sentence = "could not be compared with the server's"
        return _warn("clock", sentence, "see the other findings, and compare again then")
    sentence = skew_sentence(ahead) or ""
    if abs(ahead) <= MAX_SKEW:
        return _ok("clock", f"within {MAX_SKEW.seconds} s of the server's")
    found, _, remedy = sentence.partition("; ")
    return (_fail if abs(ahead) > _DATED_BACK else _warn)("clock", found, remedy)


def clock_went_back(now: dt.datetime, newest_record: dt.datetime | None) -> Finding:
    """A server's clock beside the newest time in its own journal."""
    if newest_record is not None and now < newest_record - MAX_SKEW:
        behind = in_words(newest_record - now)
        sentence = f"this machine's clock is {behind} behind the newest entry of the journal"
        return _fail("clock", sentence, "synchronise this machine's clock (for example with NTP)")
    return _ok("clock", "not behind the journal")


def disk(place: str, *, free_bytes: int, free_files: int | None, unwritable: str | None) -> Finding:
    """Room in the folder that must never be full.

    Args:
        place: the folder, for the sentence.
        free_bytes: what this user may still write.
        free_files: so many files may still be made; None where the file system sets no limit.
        unwritable: why nothing can be written there; None when it can.
    """
    name, room = "disk", f"{free_bytes // _MIB:,} MiB free in {place}"
    if unwritable is not None:
        return _fail(name, f"{place} cannot be written: {unwritable}", "give this user the folder")
    if free_bytes < _TOO_LITTLE_BYTES or free_files == 0:
        return _fail(name, room, "free space; what may be deleted is in docs/operations.md")
    if free_bytes < _LITTLE_BYTES:
        return _warn(name, room, "free space soon; what may be deleted is in docs/operations.md")
    if free_files is not None and free_files < _LITTLE_FILES:
        return _warn(name, f"only {free_files} more files fit in {place}", "free inodes soon")
    return _ok(name, room)


def gpu(*, torch: str | None, device: str | None, driver: bool) -> Finding:
    """Whether training uses a GPU.

    Args:
        torch: its version; None when it is not installed.
        device: the name of the GPU that torch uses; None when it sees none.
        driver: whether the machine has an NVIDIA device.
    """
    if torch is None:
        return _fail("gpu", "torch is not installed", "install Hansa with its pinned packages")
    if device is not None:
        return _ok("gpu", f"torch {torch} uses {device}")
    if driver:
        sentence = f"this machine has a GPU, but torch {torch} does not see it; the CPU is used"
        return _warn("gpu", sentence, "install a CUDA build of torch that fits the driver")
    return _ok("gpu", f"none; torch {torch} uses the CPU")


def python(version: tuple[int, int]) -> Finding:
    """The interpreter."""
    sentence = f"Python {version[0]}.{version[1]}"
    if version < OLDEST_PYTHON:
        return _fail("python", sentence, "use Python 3.11 or newer")
    return _ok("python", sentence)


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that Hansa needs."""

    name: str
    installed: str | None
    """Its version; None when it is missing."""
    wanted: str
    """As pinned, for example ``>=2.1``."""
    fits: bool


def packages(found: Sequence[Package]) -> Finding:
    """The installed packages beside those that Hansa was tested with."""
    missing = [package.name for package in found if package.installed is None]
    wrong = [
        f"{package.name} {package.installed} (wanted {package.wanted})"
        for package in found
        if package.installed is not None and not package.fits
    ]
    remedy = "install Hansa again with its pinned requirements"
    if missing:
        return _fail("packages", f"missing: {', '.join(missing)}", remedy)
    if wrong:
        return _warn("packages", f"not as pinned: {', '.join(wrong)}", remedy)
    return _ok("packages", f"all {len(found)} as pinned")


def protocol(ours: WireVersion, theirs: WireVersion | None) -> Finding:
    """The version of the wire at both ends; None when the server did not tell."""
    if theirs is None:
        return _warn("protocol", f"this side speaks {ours}; the server did not tell", _ASK_AGAIN)
    if theirs.major != ours.major or abs(theirs.minor - ours.minor) > 1:
        sentence = f"this side speaks {ours}, the server {theirs}"
        return _fail("protocol", sentence, "update the older side")
    if theirs != ours:
        sentence = f"this side speaks {ours}, the server {theirs}; both speak {min(ours, theirs)}"
        return _warn("protocol", sentence, "update the older side when it suits you")
    return _ok("protocol", f"both sides speak {ours}")


def private_files(modes: Mapping[str, int]) -> Finding:
    """Keys that nobody else may read.

    Args:
        modes: path -> permission bits.
    """
    open_to_others = sorted(path for path, mode in modes.items() if mode & 0o077)
    if open_to_others:
        sentence = f"others can read {', '.join(open_to_others)}"
        return _fail("permissions", sentence, f"chmod 600 {' '.join(open_to_others)}")
    return _ok("permissions", f"{len(modes)} private files are private")


def line(errors: Sequence[str | None]) -> Finding:
    """The way to the server.

    Args:
        errors: for each of its endpoints why no connection comes about; None where one does.
    """
    broken = [error for error in errors if error is not None]
    remedy = "check that the server runs, and that this machine may connect to it"
    if len(broken) == len(errors):
        return _fail("line", "; ".join(broken), remedy)
    if broken:
        return _warn("line", f"another endpoint answers, but {'; '.join(broken)}", remedy)
    return _ok("line", "open")


def port(name: str, address: str, *, taken: bool, ours: bool, start: str) -> Finding:
    """A port that this installation serves.

    Args:
        name: of the check.
        address: HOST:PORT.
        taken: somebody listens there.
        ours: our own process runs.
        start: the command that starts it.
    """
    if taken and not ours:
        sentence = f"another program listens on {address}"
        return _fail(name, sentence, "stop it, or choose another port in the settings")
    if ours and not taken:
        sentence = f"the process runs, but nothing answers on {address}"
        return _fail(name, sentence, "look into its log, and start it again")
    if not ours:
        return _warn(name, f"not running; {address} is free", f"start it with '{start}'")
    return _ok(name, f"served on {address}")


_ASK_AGAIN = "see the other findings, and ask again then"


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _ok(name: str, sentence: str) -> Finding:
    return Finding(name=name, grade=Grade.OK, sentence=sentence)


def _warn(name: str, sentence: str, remedy: str) -> Finding:
    return Finding(name=name, grade=Grade.WARN, sentence=sentence, remedy=remedy)


def _fail(name: str, sentence: str, remedy: str) -> Finding:
    return Finding(name=name, grade=Grade.FAIL, sentence=sentence, remedy=remedy)
