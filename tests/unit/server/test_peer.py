"""The gate: who calls, and whether the certificate still counts."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import event

from hansa.core.errors import InvalidInputError, UnauthorisedError
from hansa.core.identity import Credentials, Identity, Role, issue, make_authority, make_key
from hansa.core.ids import MerchantId
from hansa.server.plane import peer as peers
from hansa.server.plane.peer import Gate
from hansa.server.state.database import open_database
from hansa.server.state.members import Joining, Members

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
AUTHORITY = make_authority("Ours", now=NOW, valid_for=100 * DAY)


class Call:
    """A gRPC call, as far as the gate looks at it."""

    def __init__(
        self,
        shown: bytes | None,
        *,
        tls: bytes = b"TLSv1.3",
        time_left_s: float | None = 5.0,
    ) -> None:
        self._auth = {"ssl_tls_version": [tls]}
        if shown is not None:
            self._auth["x509_pem_cert"] = [shown]
        self._time_left_s = time_left_s

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._auth

    def time_remaining(self) -> float | None:
        return self._time_left_s


def issued(name: str, role: Role = Role.MERCHANT) -> Credentials:
    key = make_key()
    identity = Identity(role=role, name=name)
    certificate = issue(AUTHORITY, key.public_key(), identity, now=NOW, valid_for=30 * DAY)
    return Credentials(key=key, certificate=certificate)


def der(own: Credentials) -> bytes:
    return own.certificate.public_bytes(Encoding.DER)


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    engine = open_database(tmp_path / "hansa.db")
    yield Members(engine, NOW.timestamp)
    engine.dispose()


@pytest.fixture
def gate(members: Members) -> Gate:
    return Gate(members, lambda: NOW)


def joined(members: Members, name: str) -> Credentials:
    own = issued(name)
    members.invite(MerchantId(name), serial="1", expires=9e9)
    members.join(
        name,
        Joining(
            request_sha256="r" * 64,
            certificate_der=der(own),
            certificate_expires=9e9,
            ledger_public_key=bytes(32),
        ),
    )
    return own


def test_a_member_passes_by_one_look_at_the_database(gate: Gate, members: Members) -> None:
    call = Call(joined(members, "harbour").certificate_pem)
    looks: list[str] = []
    event.listen(
        members._engine,
        "before_cursor_execute",
        lambda *arguments: looks.append(arguments[2]),
    )
    assert gate.merchant(call) == "harbour"
    assert len([look for look in looks if look.lstrip().upper().startswith("SELECT")]) == 1
    assert all("UPDATE" not in look.upper() for look in looks)


def test_a_certificate_is_read_once_however_often_it_is_shown(gate: Gate, members: Members) -> None:
    call = Call(joined(members, "harbour").certificate_pem)
    gate.merchant(call)
    before = peers._peer_of_certificate.cache_info()
    for _ in range(5):
        gate.merchant(call)
    after = peers._peer_of_certificate.cache_info()
    assert (after.misses, after.hits - before.hits) == (before.misses, 5)
    assert after.maxsize is not None


def test_a_certificate_that_was_read_before_still_expires(members: Members) -> None:
    now = [NOW]
    gate = Gate(members, lambda: now[0])
    call = Call(joined(members, "harbour").certificate_pem)
    gate.merchant(call)
    now[0] += 31 * DAY
    with pytest.raises(UnauthorisedError, match="expired"):
        gate.merchant(call)


def test_a_certificate_that_was_read_before_is_still_revoked(gate: Gate, members: Members) -> None:
    call = Call(joined(members, "harbour").certificate_pem)
    gate.merchant(call)
    members.revoke("harbour")
    with pytest.raises(UnauthorisedError, match="not a member"):
        gate.merchant(call)


def test_only_arriving_with_the_new_certificate_ends_the_older_one(
    gate: Gate, members: Members
) -> None:
    old, new = joined(members, "harbour"), issued("harbour")
    members.renew("harbour", der(new), 9e9)
    gate.arriving(Call(old.certificate_pem))
    gate.merchant(Call(new.certificate_pem))
    gate.merchant(Call(old.certificate_pem))
    gate.arriving(Call(new.certificate_pem))
    with pytest.raises(UnauthorisedError, match="replaced"):
        gate.merchant(Call(old.certificate_pem))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (Call(None), UnauthorisedError, "holders of a certificate"),
        (
            Call(issued("x").certificate_pem, tls=b"TLSv1.2"),
            UnauthorisedError,
            "only TLS 1.3",
        ),
        (Call(issued("x").certificate_pem, time_left_s=None), InvalidInputError, "deadline"),
        (Call(issued("x", Role.OPERATOR).certificate_pem), UnauthorisedError, "role merchant"),
        (Call(issued("x").certificate_pem), UnauthorisedError, "not a member"),
        (Call(AUTHORITY.certificate_pem), UnauthorisedError, "names no Hansa identity"),
    ],
)
def test_nobody_else_passes(gate: Gate, call: Call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gate.merchant(call)


def test_the_callers_of_open_streams_are_judged_together(members: Members) -> None:
    now = [NOW]
    gate = Gate(members, lambda: now[0])
    stays, goes = joined(members, "stays"), joined(members, "goes")
    operator = issued("operator", Role.OPERATOR)
    shown = {one: gate.caller(Call(one.certificate_pem)) for one in (stays, goes, operator)}
    assert gate.objections(shown.values()) == {}
    members.revoke("goes")
    assert gate.objections(shown.values()) == {
        shown[goes]: "merchant 'goes' is not a member of this federation"
    }
    now[0] += 31 * DAY
    assert gate.objections(shown.values()).keys() == set(shown.values())
