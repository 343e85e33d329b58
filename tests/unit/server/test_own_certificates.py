"""The server's own certificate, shown to connections that have not been made yet."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hansa.core.credentials import read_credentials
from hansa.core.errors import InvalidInputError
from hansa.core.identity import Identity, Role, identity_of
from hansa.server.authority import create_authority
from hansa.server.own_certificates import (
    OPERATOR,
    SERVER,
    OwnCertificates,
    ShownCertificate,
    read_own,
)
from hansa.server.settings import ServerSettings

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
SETTINGS = ServerSettings(
    address="shops.example:8600",
    base_models={},
    server_certificate_days=9,
    operator_certificate_days=30,
)


class Time:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_authority(tmp_path, SETTINGS, START)
    return tmp_path


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def own(folder: Path, clock: Time) -> OwnCertificates:
    return OwnCertificates(folder, SETTINGS, clock)


@pytest.fixture
def shown(folder: Path, own: OwnCertificates) -> ShownCertificate:
    return ShownCertificate(own, (folder / "authority.pem").read_bytes())


def serials(folder: Path) -> tuple[int, int]:
    server, operator = (
        read_own(folder, name).certificate.serial_number for name in (SERVER, OPERATOR)
    )
    return server, operator


def test_each_gets_its_role_and_its_own_length_of_life(folder: Path) -> None:
    server, operator = (read_own(folder, name).certificate for name in (SERVER, OPERATOR))
    assert identity_of(server) == Identity(role=Role.SERVER, name="hansa")
    assert identity_of(operator) == Identity(role=Role.OPERATOR, name="operator")
    assert server.not_valid_after_utc == START + 9 * DAY
    assert operator.not_valid_after_utc == START + 30 * DAY


@pytest.mark.parametrize(
    ("days", "renewed"), [(5, (False, False)), (7, (True, False)), (21, (True, True))]
)
def test_only_what_is_due_is_renewed(
    folder: Path, own: OwnCertificates, clock: Time, days: int, renewed: tuple[bool, bool]
) -> None:
    before = serials(folder)
    clock.now += days * DAY
    own.keep_fresh()
    after = serials(folder)
    assert tuple(old != new for old, new in zip(before, after, strict=True)) == renewed


def test_what_is_shown_changes_when_it_is_due_and_not_before(
    folder: Path, shown: ShownCertificate, clock: Time
) -> None:
    first, before = shown(), serials(folder)
    assert shown() is first
    clock.now += 7 * DAY
    second = shown()
    assert second is not first
    assert shown() is second
    assert serials(folder)[0] != before[0]


def test_grpc_is_told_of_a_change_once_and_of_nothing_else(
    folder: Path, shown: ShownCertificate, clock: Time
) -> None:
    """It swaps whatever it is told without a lock, and crashes when it is told at every turn."""
    assert [shown.change() for _ in range(3)] == [None] * 3
    OwnCertificates(folder, SETTINGS, clock).rotate()
    assert shown.change() is shown()
    assert [shown.change() for _ in range(3)] == [None] * 3


def test_what_another_process_rotated_is_shown_next(
    folder: Path, shown: ShownCertificate, clock: Time
) -> None:
    first = shown()
    OwnCertificates(folder, SETTINGS, clock).rotate()
    assert shown() is not first


def test_a_renewal_that_fails_keeps_what_was_shown(
    folder: Path, shown: ShownCertificate, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    first = shown()
    (folder / "authority.key.pem").write_text("not a key")
    clock.now += 7 * DAY
    assert shown() is first
    assert "was not renewed; the present one stays" in caplog.text


def test_a_pair_that_was_left_half_written_is_not_shown(
    folder: Path, shown: ShownCertificate
) -> None:
    first = shown()
    other = read_credentials(folder, OPERATOR)
    (folder / "server.key.pem").write_bytes(other.key_pem)
    assert shown() is first
    with pytest.raises(InvalidInputError, match="do not belong together"):
        read_own(folder, SERVER)


@pytest.mark.parametrize("damage", ["mixed", "torn", "gone"])
def test_a_server_that_starts_mends_what_is_damaged(
    folder: Path, own: OwnCertificates, damage: str
) -> None:
    file = folder / "server.key.pem"
    if damage == "mixed":
        file.write_bytes(read_credentials(folder, OPERATOR).key_pem)
    elif damage == "torn":
        file.write_bytes(file.read_bytes()[:50])
    else:
        file.unlink()
    ShownCertificate(own, (folder / "authority.pem").read_bytes())()
    assert read_own(folder, SERVER).belong_together


def test_without_its_authority_a_server_says_which_file_is_missing(
    folder: Path, own: OwnCertificates
) -> None:
    (folder / "authority.pem").unlink()
    with pytest.raises(InvalidInputError, match="authority"):
        own.rotate()


def test_readers_never_meet_a_half_written_pair(folder: Path, clock: Time) -> None:
    def rotate(_: int) -> None:
        OwnCertificates(folder, SETTINGS, clock).rotate()

    def read(_: int) -> bool:
        return read_own(folder, SERVER).belong_together

    with ThreadPoolExecutor(4) as pool:
        writing = pool.map(rotate, range(10))
        assert all(pool.map(read, range(60)))
        list(writing)


def test_keys_are_private(folder: Path, own: OwnCertificates) -> None:
    own.rotate()
    for name in (SERVER, OPERATOR):
        assert (folder / f"{name}.key.pem").stat().st_mode & 0o777 == 0o600
