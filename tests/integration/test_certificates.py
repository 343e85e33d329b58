"""Certificates that are renewed, rotated, revoked and outlived while connections stay open."""

import asyncio
import datetime as dt
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from hansa.client.channel import open_channel, translated
from hansa.client.enrol import Terms, join
from hansa.client.registration import register
from hansa.client.renewal import Renewal
from hansa.client.site import Site
from hansa.core.errors import HansaError, NotFoundError, TransportError, UnauthorisedError
from hansa.core.identity import (
    Credentials,
    certificate_of,
    certificate_request,
    due_from,
    load_key,
    make_key,
)
from hansa.core.invitation import Invitation
from hansa.core.storage import CHUNK_BYTES
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import enrolment_pb2
from hansa.protos.v1 import federation_pb2 as pb
from hansa.server.cli import app
from hansa.server.operator_client import connect
from hansa.server.settings import StateFolder
from hansa.server.signals import until_told_to_stop
from hansa.server.state.database import open_database
from hansa.server.state.members import Members
from tests.fakes.toy_federation import MODEL, ToyApplication, toy_plan
from tests.integration.federation_harness import (
    ROOT,
    TIMEOUT_S,
    Federation,
    Server,
    utc_now,
    wait_until,
)
from tests.integration.raw_member import RawMember, blob, raw_member, stop, tasks_of

pytestmark = pytest.mark.integration

Code = grpc.StatusCode
DAY = dt.timedelta(days=1)
LIFE = 30 * DAY + dt.timedelta(minutes=5)
_numbers = count(1)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("federation")) as federation:
        yield federation


@pytest.fixture(scope="module", autouse=True)
def server(federation: Federation) -> Server:
    return federation.start_server()


@pytest.fixture
def name() -> str:
    return f"merchant-{next(_numbers)}"


@pytest.fixture
def member(federation: Federation, name: str) -> Iterator[RawMember]:
    with raw_member(federation, name) as member:
        yield member


def served(federation: Federation) -> x509.Certificate:
    """The certificate that the server shows to a new connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = federation.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as plain,
        context.wrap_socket(plain) as line,
    ):
        der = line.getpeercert(binary_form=True)
    assert der is not None
    return certificate_of(der)


def dialled(federation: Federation, site: Site, own: Credentials | None = None) -> grpc.Channel:
    own = own or site.credentials()
    return open_channel(
        federation.address,
        authority_pem=site.authority_pem(),
        key_pem=own.key_pem,
        certificate_pem=own.certificate_pem,
    )


def gets_task(federation: Federation, member: RawMember, stream: grpc.Call) -> bool:
    """Whether an open stream still hands out work."""
    beat = pb.HeartbeatRequest(session=member.session)
    assert not member.federation.Heartbeat(beat, timeout=TIMEOUT_S).fenced
    run_id = federation.launch(toy_plan(rounds=1, quorum=1, deadline_s=60.0))
    try:
        return any(event.task.run_id == run_id for event in stream)
    finally:
        stop(federation, run_id)


def ends(stream: grpc.Call) -> tuple[grpc.StatusCode, str, float]:
    """How a stream ends, and after how many seconds."""
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as refused:
        list(stream)
    return refused.value.code(), refused.value.details(), time.monotonic() - started


class TestTheServersOwnCertificate:
    def test_a_rotation_is_seen_by_new_connections_while_open_streams_live_on(
        self, federation: Federation, member: RawMember
    ) -> None:
        stream, before = member.subscribe(), served(federation)
        told = CliRunner().invoke(
            app, ["rotate-certificate", "--state", str(federation.state.path)]
        )
        assert told.exit_code == 0, told.output
        after = served(federation)
        assert after.serial_number != before.serial_number
        assert after.public_key() != before.public_key()
        assert gets_task(federation, member, stream)
        with federation.caller(member.site.credentials()) as caller:
            assert caller.federation.Register(pb.RegisterRequest(protocol="1"), timeout=TIMEOUT_S)

    def test_the_operators_commands_go_on_after_a_rotation(
        self, federation: Federation, server: Server
    ) -> None:
        server.parts.authority.own.rotate()
        with federation.operator() as client:
            client.merchants()

    def test_a_certificate_that_is_due_is_renewed_at_the_next_connection(
        self, federation: Federation
    ) -> None:
        """It lives 90 days; 61 are over."""
        before = served(federation)
        with federation.clock.shifted(61 * DAY):
            after = served(federation)
            assert after.serial_number != before.serial_number
            assert served(federation) == after
        assert after.not_valid_after_utc > utc_now() + 150 * DAY

    def test_two_thirds_of_its_life_it_stays_as_it_is(self, federation: Federation) -> None:
        CliRunner().invoke(app, ["rotate-certificate", "--state", str(federation.state.path)])
        before = served(federation)
        with federation.clock.shifted(59 * DAY):
            assert served(federation) == before

    def test_a_hang_up_signal_rotates(self) -> None:
        rotated = threading.Event()

        async def life() -> None:
            waiting = asyncio.create_task(until_told_to_stop(rotate=rotated.set))
            await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGHUP)
            assert await asyncio.to_thread(rotated.wait, TIMEOUT_S)
            assert not waiting.done()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(waiting, TIMEOUT_S)

        before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            asyncio.run(life())
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


REVOKE = """
import sys, time
from pathlib import Path
from hansa.server.state.database import open_database
from hansa.server.state.members import Members
Members(open_database(Path(sys.argv[1])), time.time).revoke(sys.argv[2])
"""


def revoke_elsewhere(federation: Federation, merchant: str) -> None:
    """By a process that shares nothing with the server but the database."""
    command = [sys.executable, "-c", REVOKE, str(federation.state.database), merchant]
    subprocess.run(command, cwd=ROOT, check=True)


def revoke_unseen(federation: Federation, merchant: str) -> None:
    """Straight into the database: nothing within the server is told."""
    engine = open_database(federation.state.database)
    Members(engine, time.time).revoke(merchant)
    engine.dispose()


class TestOpenStreams:
    """Within five seconds of the write into the database, whoever wrote it."""

    def test_a_revocation_by_another_process_cuts_an_open_subscription(
        self, federation: Federation, member: RawMember, name: str
    ) -> None:
        with raw_member(federation, f"{name}-neighbour") as neighbour:
            theirs, stream = neighbour.subscribe(), member.subscribe()
            revoke_elsewhere(federation, member.name)
            code, text, seconds = ends(stream)
            assert (code, text) == (
                Code.PERMISSION_DENIED,
                f"merchant {member.name!r} is not a member of this federation",
            )
            assert seconds < 5.0
            assert gets_task(federation, neighbour, theirs)

    def test_an_upload_that_sends_nothing_more_is_cut(
        self, federation: Federation, member: RawMember
    ) -> None:
        with tasks_of(federation, member) as (task,):
            over, ref = threading.Event(), blob(bytes(CHUNK_BYTES))
            header = pb.UploadHeader(task_id=task.task_id, blob=ref)

            def messages() -> Iterator[pb.UploadMessage]:
                yield pb.UploadMessage(header=header)
                yield pb.UploadMessage(chunk=common.Chunk(data=b"the beginning"))
                over.wait(TIMEOUT_S)

            call = member.federation.Upload.future(messages(), timeout=TIMEOUT_S)
            revoke_unseen(federation, member.name)
            started = time.monotonic()
            try:
                assert call.exception(timeout=TIMEOUT_S).code() is Code.PERMISSION_DENIED
                assert time.monotonic() - started < 5.0
            finally:
                over.set()

    def test_a_download_that_nobody_reads_gives_no_more_after_it(
        self, federation: Federation, server: Server, member: RawMember
    ) -> None:
        with tasks_of(federation, member) as (task,):
            sha = server.parts.blobs.put(bytes(32 * CHUNK_BYTES))
            server.parts.runs.note_context(task.run_id, sha)
            request = pb.DownloadRequest(task_id=task.task_id, sha256=sha)
            stream = member.federation.Download(request, timeout=TIMEOUT_S)
            next(stream)
            revoke_unseen(federation, member.name)
            time.sleep(2.5)  # the promise itself: the server looks every second
            rest: list[common.Chunk] = []
            with pytest.raises(grpc.RpcError, match="not a member"):
                rest.extend(stream)
            assert len(rest) < 31

    def test_a_stream_ends_when_its_certificate_expires(
        self, federation: Federation, member: RawMember
    ) -> None:
        stream = member.subscribe()
        with federation.clock.shifted(31 * DAY):
            code, text, seconds = ends(stream)
        assert code is Code.PERMISSION_DENIED
        assert "expired" in text
        assert seconds < 5.0

    def test_streams_of_services_that_write_their_replies_are_cut_as_well(
        self, federation: Federation, member: RawMember
    ) -> None:
        stub = health_pb2_grpc.HealthStub(member.caller.channel)
        stream = stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(stream).status == health_pb2.HealthCheckResponse.SERVING
        revoke_unseen(federation, member.name)
        assert ends(stream)[0] is Code.PERMISSION_DENIED


class TestRenewal:
    def test_an_open_session_renews_once_and_goes_on_with_the_older_certificate(
        self, federation: Federation, member: RawMember
    ) -> None:
        site, old = member.site, member.site.credentials()
        stream = member.subscribe()
        renewal = Renewal(site, member.caller.channel, lambda: utc_now() + 21 * DAY)
        renewal.check()
        new = site.credentials()
        assert new.certificate != old.certificate
        assert new.key_pem == old.key_pem
        renewal.check()
        assert site.credentials().certificate == new.certificate
        enquiry = enrolment_pb2.EnquireRequest(protocol="1")
        beat = pb.HeartbeatRequest(session=member.session)
        with federation.caller(new) as beside:  # as the client does that fetches releases
            assert beside.enrolment.Enquire(enquiry, timeout=TIMEOUT_S)
            assert not member.federation.Heartbeat(beat, timeout=TIMEOUT_S).fenced
        assert gets_task(federation, member, stream)
        with federation.caller(new) as next_session:
            next_session.federation.Register(pb.RegisterRequest(protocol="1"), timeout=TIMEOUT_S)
        with pytest.raises(grpc.RpcError, match="was replaced"):
            member.federation.Heartbeat(beat, timeout=TIMEOUT_S)

    def test_a_renewal_whose_reply_is_lost_can_be_repeated_from_the_same_session(
        self, federation: Federation, member: RawMember
    ) -> None:
        """The server issued two that never arrived; both ends still agree on the old one."""
        request = enrolment_pb2.RenewRequest(csr_der=certificate_request(make_key(), "lost"))
        for _ in range(2):
            member.caller.enrolment.Renew(request, timeout=TIMEOUT_S)
        renewal = Renewal(member.site, member.caller.channel, lambda: utc_now() + 21 * DAY)
        renewal.check()
        with federation.caller(member.site.credentials()) as caller:
            caller.federation.Register(pb.RegisterRequest(protocol="1"), timeout=TIMEOUT_S)

    def test_a_failed_renewal_is_tried_again_a_minute_later_and_disturbs_nobody(
        self, federation: Federation, member: RawMember
    ) -> None:
        before = member.site.credentials().certificate
        now = [utc_now() + 21 * DAY]
        nobody = Federation.__new__(Federation)
        nobody.address = "127.0.0.1:1"
        with dialled(nobody, member.site) as dead, dialled(federation, member.site) as alive:
            renewal = Renewal(member.site, dead, lambda: now[0])
            renewal.check()
            renewal._channel = alive
            renewal.check()
            assert member.site.credentials().certificate == before
            now[0] += dt.timedelta(minutes=1)
            renewal.check()
        assert member.site.credentials().certificate != before

    def test_a_running_client_renews_within_its_session_and_outlives_the_old_certificate(
        self, tmp_path: Path
    ) -> None:
        """It falls due five seconds after the start; then the server's clock passes its end."""
        ahead = LIFE * 2 / 3 - dt.timedelta(minutes=5, seconds=5)
        with Federation(tmp_path) as federation:
            server = federation.start_server()
            with federation.clock.shifted(-ahead):
                site = federation.join("harbour", hours=600)
            old = site.credentials().certificate
            assert due_from(old) > utc_now()
            federation.start_clients({site: ToyApplication()})
            before = session_number(server, "harbour")
            wait_until("the renewal", lambda: site.credentials().certificate != old)
            assert session_number(server, "harbour") == before
            with federation.clock.shifted(11 * DAY):
                wait_until("a new session", lambda: session_number(server, "harbour") > before)
                assert federation.finish(toy_plan(rounds=1, quorum=1)).state == "completed"


def session_number(server: Server, name: str) -> int:
    return next(row.session for row in server.parts.members.everyone() if row.name == name)


class TestClocks:
    def test_a_client_is_told_how_far_its_clock_is_off(
        self, federation: Federation, member: RawMember, caplog: pytest.LogCaptureFixture
    ) -> None:
        with dialled(federation, member.site) as channel:
            found = register(channel, lambda: utc_now() + dt.timedelta(seconds=3600))
            assert dt.timedelta(minutes=59) < found.ahead <= dt.timedelta(minutes=60)
            assert abs(found.server_now() - utc_now()) < dt.timedelta(minutes=1)
            assert "59 minutes ahead of the server's" in caplog.text
            assert "NTP" in caplog.text
            caplog.clear()
            assert register(channel).ahead == dt.timedelta()
        assert "clock" not in caplog.text

    @pytest.mark.parametrize(
        ("shift", "words"),
        [(-40, "expired at .* ask the operator for a new invitation"), (40, "only from .* NTP")],
    )
    def test_a_line_closed_for_the_clients_dates_is_explained(
        self, federation: Federation, member: RawMember, server: Server, shift: int, words: str
    ) -> None:
        key = make_key()
        with federation.clock.shifted(shift * DAY):
            request = certificate_request(key, member.name)
            der, _ = server.parts.authority.certify(member.name, request)
        own = Credentials(key=key, certificate=certificate_of(der))
        with (
            dialled(federation, member.site, own) as channel,
            pytest.raises(TransportError, match=words),
            translated(federation.address, own.certificate),
        ):
            register(channel)

    @pytest.mark.parametrize(
        ("shift", "words"), [(-400, "has expired .* rotate-certificate"), (400, "not valid yet")]
    )
    def test_a_line_closed_for_the_servers_dates_is_explained(
        self, federation: Federation, member: RawMember, server: Server, shift: int, words: str
    ) -> None:
        own = member.site.credentials()
        with federation.clock.shifted(shift * DAY):
            server.parts.authority.own.rotate()
            try:
                with (
                    dialled(federation, member.site) as channel,
                    pytest.raises(TransportError, match=words),
                    translated(federation.address, own.certificate),
                ):
                    register(channel)
            finally:
                federation.clock._shift = dt.timedelta()
                server.parts.authority.own.rotate()

    def test_a_server_that_does_not_run_is_not_blamed_on_dates(self, member: RawMember) -> None:
        own = member.site.credentials()
        nobody = Federation.__new__(Federation)
        nobody.address = "127.0.0.1:1"
        with (
            dialled(nobody, member.site) as channel,
            pytest.raises(TransportError, match="check that it runs"),
            translated(nobody.address, own.certificate, lambda: utc_now() + 400 * DAY),
        ):
            register(channel)


def terms(federation: Federation) -> Terms:
    models = {MODEL: federation.folder / "model"}
    return Terms(
        epsilon_cap=8.0, delta=1e-5, base_models=models, serving_port=0, update_period_s=60.0
    )


def invited(invitation: Invitation) -> Credentials:
    certificate = x509.load_pem_x509_certificate(invitation.certificate_pem.encode())
    return Credentials(key=load_key(invitation.key_pem.encode()), certificate=certificate)


class TestAStolenToken:
    def test_of_a_thief_and_the_merchant_at_the_same_moment_one_becomes_a_member(
        self, federation: Federation, name: str, tmp_path: Path
    ) -> None:
        invitation, here = federation.invite(name), terms(federation)
        barrier = threading.Barrier(2)

        def attempt(where: str) -> Site | HansaError:
            site = Site(tmp_path / where)
            barrier.wait(TIMEOUT_S)
            try:
                join(site, invitation, here, utc_now())
            except HansaError as error:
                return error
            return site

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(attempt, ["thief", "merchant"]))
        (refused,) = (one for one in outcomes if isinstance(one, HansaError))
        (winner,) = (one for one in outcomes if isinstance(one, Site))
        assert isinstance(refused, UnauthorisedError)
        assert "used already" in str(refused)
        with federation.caller(winner.credentials()) as caller:
            caller.federation.Register(pb.RegisterRequest(protocol="1"), timeout=TIMEOUT_S)

    def test_a_thief_who_was_first_is_noticed_and_thrown_out(
        self, federation: Federation, name: str, tmp_path: Path
    ) -> None:
        """The ledger key is the thief's then: the merchant is invited under another name."""
        invitation = federation.invite(name)
        thief, merchant = Site(tmp_path / "thief"), Site(tmp_path / "merchant")
        join(thief, invitation, terms(federation), utc_now())
        with pytest.raises(UnauthorisedError, match="ask the operator for a new one"):
            join(merchant, invitation, terms(federation), utc_now())
        with federation.operator() as operator:
            operator.revoke(name)
        with (
            federation.caller(thief.credentials()) as caller,
            pytest.raises(grpc.RpcError, match="not a member"),
        ):
            caller.federation.Register(pb.RegisterRequest(protocol="1"), timeout=TIMEOUT_S)
        join(
            Site(tmp_path / "again"),
            federation.invite(f"{name}-2"),
            terms(federation),
            utc_now(),
        )

    def test_the_token_of_a_revoked_invitation_opens_nothing(
        self, federation: Federation, name: str, tmp_path: Path
    ) -> None:
        invitation = federation.invite(name)
        with federation.operator() as operator:
            operator.revoke(name)
        with pytest.raises(UnauthorisedError):
            join(Site(tmp_path / "late"), invitation, terms(federation), utc_now())

    def test_who_replays_the_merchants_request_gets_a_certificate_for_the_merchants_key(
        self, federation: Federation, name: str
    ) -> None:
        """The reply is public; without the key, which never left the site, it is worth nothing."""
        invitation = federation.invite(name)
        site = Site(federation.folder / "sites" / name)
        join(site, invitation, terms(federation), utc_now())
        request = enrolment_pb2.JoinRequest(
            protocol="1",
            csr_der=(site.identity / "request.der").read_bytes(),
            ledger_public_key=bytes(32),
        )
        with federation.caller(invited(invitation)) as thief:
            reply = thief.enrolment.Join(request, timeout=TIMEOUT_S)
        gained = certificate_of(reply.certificate_der)
        assert gained.public_key() == site.credentials().key.public_key()

    def test_an_expired_token_is_explained(
        self, federation: Federation, name: str, tmp_path: Path
    ) -> None:
        with federation.clock.shifted(dt.timedelta(hours=-2)):
            invitation = federation.invite(name, hours=1)
        with pytest.raises(TransportError, match=r"expired at .* new invitation"):
            join(Site(tmp_path / "late"), invitation, terms(federation), utc_now())


class TestTheOperatorElsewhere:
    @pytest.fixture
    def laptop(self, federation: Federation, tmp_path: Path) -> StateFolder:
        """Another machine of the operator: three files, and no server."""
        folder = StateFolder(tmp_path / "laptop")
        folder.authority.mkdir(parents=True)
        for file in ("operator.key.pem", "operator.pem", "authority.pem"):
            shutil.copy(federation.state.authority / file, folder.authority)
        return folder

    def test_three_files_and_the_address_are_enough(
        self, federation: Federation, laptop: StateFolder, member: RawMember
    ) -> None:
        with connect(laptop, federation.address) as client:
            assert member.name in {merchant.merchant for merchant in client.merchants()}
        command = ["merchants", "--json", "--state", str(laptop.path)]
        told = CliRunner().invoke(app, [*command, "--server", federation.address])
        assert (told.exit_code, member.name in told.output) == (0, True)

    def test_without_an_address_the_state_must_say_where_the_server_is(
        self, laptop: StateFolder
    ) -> None:
        with pytest.raises(NotFoundError), connect(laptop):
            pass

    def test_a_merchants_certificate_does_not_make_an_operator(
        self, federation: Federation, laptop: StateFolder, member: RawMember
    ) -> None:
        own = member.site.credentials()
        (laptop.authority / "operator.key.pem").write_bytes(own.key_pem)
        (laptop.authority / "operator.pem").write_bytes(own.certificate_pem)
        with (
            pytest.raises(UnauthorisedError, match="operator"),
            connect(laptop, federation.address) as client,
        ):
            client.merchants()
