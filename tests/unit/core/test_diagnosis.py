"""Each check once well and once broken in each way that it knows."""

import datetime as dt
import json
from collections.abc import Callable

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from hansa.core import diagnosis
from hansa.core.diagnosis import Finding, Grade, Package
from hansa.core.identity import Credentials, Identity, Role, issue, make_authority, make_key
from hansa.core.wire_version import WireVersion

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
AUTHORITY = make_authority("Ours", now=NOW, valid_for=3650 * DAY)
OTHERS = make_authority("Theirs", now=NOW, valid_for=3650 * DAY)
OK, WARN, FAIL = Grade.OK, Grade.WARN, Grade.FAIL


def issued(authority: Credentials = AUTHORITY) -> Credentials:
    """For 30 days from now on."""
    key, identity = make_key(), Identity(role=Role.MERCHANT, name="harbour")
    certificate = issue(authority, key.public_key(), identity, now=NOW, valid_for=30 * DAY)
    return Credentials(key=key, certificate=certificate)


def judged(own: Credentials, after: dt.timedelta = dt.timedelta()) -> Finding:
    return diagnosis.certificate(
        "certificate",
        own,
        AUTHORITY.certificate,
        now=NOW + after,
        renews_itself=True,
        remedy="renew it",
    )


OWN = issued()


@pytest.mark.parametrize(
    ("finding", "grade", "words"),
    [
        (judged(OWN), OK, "30 days"),
        (judged(OWN, 21 * DAY), WARN, "expires in 9 days"),
        (judged(OWN, 31 * DAY), FAIL, "expired at 2026-03-31"),
        (judged(OWN, -1 * DAY), FAIL, "valid only from"),
        (judged(issued(OTHERS)), FAIL, "not issued by"),
        (
            judged(Credentials(key=make_key(), certificate=OWN.certificate)),
            FAIL,
            "does not belong",
        ),
    ],
)
def test_a_certificate_is_judged_by_key_authority_and_dates(
    finding: Finding, grade: Grade, words: str
) -> None:
    assert finding.grade is grade
    assert words in finding.sentence


def test_an_authority_of_the_same_name_is_another_authority() -> None:
    namesake = make_authority("Ours", now=NOW, valid_for=3650 * DAY)
    assert judged(issued(namesake)).grade is FAIL


@pytest.mark.parametrize(("after", "grade"), [(0, OK), (3300, WARN), (3651, FAIL)])
def test_the_authoritys_end_is_told_a_year_ahead(after: int, grade: Grade) -> None:
    certificate: x509.Certificate = AUTHORITY.certificate
    found = diagnosis.authority_certificate(certificate, now=NOW + after * DAY)
    assert found.grade is grade


@pytest.mark.parametrize(("left", "grade"), [(61, OK), (59, WARN), (0, FAIL), (-3, FAIL)])
def test_metadata_that_expires_is_told_early(left: int, grade: Grade) -> None:
    found = diagnosis.expiry("root", NOW + left * DAY, now=NOW, early=60 * DAY, remedy="sign it")
    assert found.grade is grade


@pytest.mark.parametrize(
    ("seconds", "grade"), [(0, OK), (-30, OK), (31, WARN), (-300, WARN), (301, FAIL), (-900, FAIL)]
)
def test_a_clock_is_judged_by_its_distance_from_the_servers(seconds: int, grade: Grade) -> None:
    assert diagnosis.clock(dt.timedelta(seconds=seconds)).grade is grade


def test_a_clock_that_could_not_be_compared_is_not_called_right() -> None:
    assert diagnosis.clock(None).grade is WARN


def test_a_servers_clock_must_not_be_behind_its_journal() -> None:
    assert diagnosis.clock_went_back(NOW, None).grade is OK
    assert diagnosis.clock_went_back(NOW, NOW + dt.timedelta(seconds=29)).grade is OK
    found = diagnosis.clock_went_back(NOW, NOW + dt.timedelta(hours=3))
    assert (found.grade, "3 hours behind" in found.sentence) == (FAIL, True)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("free_bytes", "free_files", "unwritable", "grade"),
    [
        (50 * GIB, 10**6, None, OK),
        (50 * GIB, None, None, OK),
        (GIB, 10**6, None, WARN),
        (50 * GIB, 9999, None, WARN),
        (100 << 20, 10**6, None, FAIL),
        (50 * GIB, 0, None, FAIL),
        (50 * GIB, 10**6, "permission denied", FAIL),
    ],
)
def test_a_disk_is_judged_by_bytes_files_and_the_right_to_write(
    free_bytes: int, free_files: int | None, unwritable: str | None, grade: Grade
) -> None:
    found = diagnosis.disk(
        "/srv", free_bytes=free_bytes, free_files=free_files, unwritable=unwritable
    )
    assert found.grade is grade
    assert "/srv" in found.sentence


@pytest.mark.parametrize(
    ("torch", "device", "driver", "grade", "words"),
    [
        ("2.13.0", "H100", True, OK, "uses H100"),
        ("2.13.0", None, False, OK, "uses the CPU"),
        ("2.13.0+cpu", None, True, WARN, "the CPU is used"),
        (None, None, False, FAIL, "not installed"),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_told(
    torch: str | None, device: str | None, driver: bool, grade: Grade, words: str
) -> None:
    found = diagnosis.gpu(torch=torch, device=device, driver=driver)
    assert found.grade is grade
    assert words in found.sentence


@pytest.mark.parametrize(("version", "grade"), [((3, 10), FAIL), ((3, 11), OK), ((4, 0), OK)])
def test_an_old_python_is_refused(version: tuple[int, int], grade: Grade) -> None:
    assert diagnosis.python(version).grade is grade


def package(installed: str | None, *, fits: bool) -> Package:
    return Package(name="grpcio", installed=installed, wanted=">=1.81", fits=fits)


@pytest.mark.parametrize(
    ("found", "grade"),
    [
        (package("1.85.1", fits=True), OK),
        (package("1.0", fits=False), WARN),
        (package(None, fits=False), FAIL),
    ],
)
def test_packages_are_compared_with_the_pinned_ones(found: Package, grade: Grade) -> None:
    finding = diagnosis.packages([package("1.85.1", fits=True), found])
    assert finding.grade is grade
    assert grade is OK or "grpcio" in finding.sentence


V10, V11, V12, V20 = (
    WireVersion(major=major, minor=minor) for major, minor in [(1, 0), (1, 1), (1, 2), (2, 0)]
)


@pytest.mark.parametrize(
    ("theirs", "grade"), [(V11, OK), (V10, WARN), (V12, WARN), (V20, FAIL), (None, WARN)]
)
def test_one_minor_version_apart_is_allowed(theirs: WireVersion | None, grade: Grade) -> None:
    assert diagnosis.protocol(V11, theirs).grade is grade


def test_two_minor_versions_apart_are_not_promised() -> None:
    assert diagnosis.protocol(V12, V10).grade is FAIL


@pytest.mark.parametrize(
    ("mode", "grade"), [(0o600, OK), (0o400, OK), (0o640, FAIL), (0o604, FAIL)]
)
def test_a_key_that_others_can_read_is_named_with_the_command(mode: int, grade: Grade) -> None:
    found = diagnosis.private_files({"/site/ledger.key": mode, "/site/own.key": 0o600})
    assert found.grade is grade
    assert grade is OK or found.remedy == "chmod 600 /site/ledger.key"


@pytest.mark.parametrize(
    ("taken", "ours", "grade"),
    [(True, True, OK), (False, False, WARN), (True, False, FAIL), (False, True, FAIL)],
)
def test_a_port_must_be_free_or_ours(taken: bool, ours: bool, grade: Grade) -> None:
    found = diagnosis.port("service", "127.0.0.1:8700", taken=taken, ours=ours, start="go")
    assert found.grade is grade


@pytest.mark.parametrize(
    ("errors", "grade"),
    [([None], OK), (["refused"], FAIL), (["refused", None], WARN), (["refused", "late"], FAIL)],
)
def test_one_endpoint_of_the_server_is_enough_to_go_on(
    errors: list[str | None], grade: Grade
) -> None:
    found = diagnosis.line(errors)
    assert found.grade is grade
    assert all(error is None or error in found.sentence for error in errors)


def test_a_check_that_somebody_else_made_keeps_his_sentence() -> None:
    well = diagnosis.problem("ledger", None, well="3 entries")
    broken = diagnosis.problem("ledger", "entry 2 was edited", well="3 entries")
    assert (well.grade, well.sentence) == (OK, "3 entries")
    assert (broken.grade, broken.sentence) == (FAIL, "entry 2 was edited")


EVERYTHING: list[Callable[[], Finding]] = [
    lambda: judged(OWN, 31 * DAY),
    lambda: diagnosis.clock(None),
    lambda: diagnosis.clock(dt.timedelta(hours=1)),
    lambda: diagnosis.gpu(torch=None, device=None, driver=True),
    lambda: diagnosis.python((3, 9)),
    lambda: diagnosis.problem("x", "broken", well=""),
    lambda: diagnosis.not_set_up("x", "not yet", "do it"),
]


@pytest.mark.parametrize("check", EVERYTHING)
def test_every_finding_that_is_not_ok_says_what_to_do(check: Callable[[], Finding]) -> None:
    finding = check()
    assert finding.grade is not OK
    assert finding.remedy


@given(st.lists(st.sampled_from(Grade)))
def test_only_a_failure_makes_the_whole_unhealthy(grades: list[Grade]) -> None:
    findings = [Finding(name="x", grade=grade, sentence="s", remedy="r") for grade in grades]
    assert diagnosis.healthy(findings) is (Grade.FAIL not in grades)
    plain = json.loads(json.dumps(diagnosis.as_plain(findings)))
    assert plain["ok"] is diagnosis.healthy(findings)
    assert [one["grade"] for one in plain["findings"]] == [str(grade) for grade in grades]


def test_the_table_shows_markup_of_a_sentence_as_it_is() -> None:
    finding = Finding(name="x", grade=FAIL, sentence="[red]odd[/red] path", remedy="mend [it]")
    table = diagnosis.as_table([finding])
    assert [str(column._cells[0]) for column in table.columns] == [
        "x",
        "fail",
        "[red]odd[/red] path",
        "mend [it]",
    ]
