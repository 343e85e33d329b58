"""What an auditor fetches, and what it refuses to put in the place of what it has."""

import datetime as dt

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hansa.audit.access import Access
from hansa.audit.copies import read_log_folder
from hansa.audit.pull import pull
from hansa.core.canonical import canonical_json
from hansa.core.errors import AuditFailedError, ConflictError, InvalidInputError, NotFoundError
from hansa.core.identity import Identity, Role, issue, make_authority, public_key_of_request
from hansa.core.signing import key_id_of, signing_key
from hansa.core.transparency.leaves import BeginLeaf, PlanLeaf
from tests.fakes.log_server import LogServer
from tests.fakes.log_world import NOW, ORIGIN, PLAN_KEY

TIME = "2026-11-24T01:02:03.000004Z"
BEGIN = BeginLeaf(origin=ORIGIN, time=TIME, merchants=0, runs=0, entries=0).to_bytes()


def plan(number: int) -> bytes:
    return PlanLeaf(run=f"run-{number}", plan_digest="0" * 64, started=TIME).to_bytes()


def grant_for(access: Access, *, role: Role = Role.AUDITOR, **changes: str) -> bytes:
    """What the operator makes of the auditor's request."""
    request = (access.folder / "request.csr").read_bytes()
    authority = make_authority("test", now=NOW, valid_for=dt.timedelta(days=9))
    identity = Identity(role=role, name="eve")
    certificate = issue(
        authority, public_key_of_request(request), identity, now=NOW, valid_for=dt.timedelta(days=1)
    )
    return canonical_json(
        {
            "format": "hansa-auditor 1",
            "name": "eve",
            "address": "127.0.0.1:1",
            "authority_pem": authority.certificate_pem.decode(),
            "certificate_pem": certificate.public_bytes(Encoding.PEM).decode(),
            "plan_key": key_id_of(PLAN_KEY),
            **changes,
        }
    )


@pytest.fixture
def access(tmp_path) -> Access:
    access = Access(tmp_path / "auditor")
    access.request("eve")
    access.accept(grant_for(access), "the grant")
    return access


@pytest.fixture
def server() -> LogServer:
    return LogServer([BEGIN, *map(plan, range(9))])


def test_the_log_is_fetched_in_pages_and_continued(access, server) -> None:
    assert pull(access, server).new_entries == 10
    server.add(plan(10), plan(11))
    assert pull(access, server).new_entries == 2
    assert list(read_log_folder(access.folder).leaves) == server.bodies


def test_a_log_that_was_cut_since_the_last_visit_is_refused_and_the_copy_stays(
    access, server
) -> None:
    pull(access, server)
    before = read_log_folder(access.folder)
    del server.bodies[5:]
    with pytest.raises(AuditFailedError, match="log entry 5: the log ends before it"):
        pull(access, server)
    assert read_log_folder(access.folder) == before


def test_a_log_that_was_rewritten_since_the_last_visit_is_refused(access, server) -> None:
    pull(access, server)
    server.bodies[4] = plan(99)
    server.add(plan(10))
    with pytest.raises(AuditFailedError, match="does not go on from the 10 entries"):
        pull(access, server)


def test_entries_that_were_not_signed_are_refused(access, server, monkeypatch) -> None:
    monkeypatch.setattr(server, "entries", lambda first, _count: [plan(50 + first)])
    with pytest.raises(AuditFailedError, match="do not have the root that it signed"):
        pull(access, server)


def test_a_server_that_withholds_entries_is_named_with_the_first_one(
    access, server, monkeypatch
) -> None:
    monkeypatch.setattr(server, "entries", lambda _first, _count: [])
    with pytest.raises(AuditFailedError, match="log entry 0: the server does not hand it out"):
        pull(access, server)


def test_a_key_is_made_once_and_is_the_owners_alone(access) -> None:
    with pytest.raises(ConflictError, match="already"):
        access.request("eve")
    assert (access.folder / "auditor.key.pem").stat().st_mode & 0o077 == 0


def test_without_a_grant_nothing_is_pulled(tmp_path) -> None:
    with pytest.raises(NotFoundError, match="--grant"):
        Access(tmp_path).grant()


def test_a_grant_for_another_key_or_another_role_is_refused(tmp_path, access) -> None:
    other = Access(tmp_path / "other")
    other.request("eve")
    with pytest.raises(InvalidInputError, match="another key"):
        access.accept(grant_for(other), "the grant")
    with pytest.raises(InvalidInputError, match="not for an auditor"):
        access.accept(grant_for(access, role=Role.MERCHANT), "the grant")


def test_a_grant_with_another_plan_key_is_refused(access) -> None:
    foreign = key_id_of(signing_key(b"x" * 32))
    with pytest.raises(InvalidInputError, match="another plan key"):
        access.accept(grant_for(access, plan_key=foreign), "the grant")


def test_a_run_cannot_name_a_place_outside_the_folder(access, server) -> None:
    with pytest.raises(InvalidInputError, match="not a run's name"):
        pull(access, server, runs=("../../x",))
