"""``hansa-client doctor``: looks at a site from all sides and says what to do about each finding.

It changes nothing, opens no session (so a running client goes on undisturbed), and works before the
site has joined and while the server is down.
"""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import grpc
from cryptography import x509

from hansa.client.channel import open_channel, translated, utc_now
from hansa.client.ledger_store import read_ledger
from hansa.client.registration import clock_ahead
from hansa.client.site import Site, SiteSettings
from hansa.client.version import SPEAKS
from hansa.core.diagnosis import (
    Finding,
    Grade,
    authority_certificate,
    certificate,
    clock,
    line,
    not_set_up,
    port,
    private_files,
    problem,
    protocol,
)
from hansa.core.errors import HansaError
from hansa.core.machine import (
    attempted,
    connect_errors,
    machine_findings,
    private_modes,
    shows_certificate_of,
)
from hansa.core.wire_version import WireVersion
from hansa.protos.v1 import enrolment_pb2 as pb
from hansa.protos.v1 import enrolment_pb2_grpc as rpc

_JOIN_AGAIN = "start the client, which renews it; if it has expired, join again with a new token"
_TIMEOUT_S = 10.0


def examine(site: Site) -> list[Finding]:
    """Every check of a site, in the order in which to mend what they find."""
    findings = machine_findings(site.path, "client")
    if not site.has_joined():
        sentence = f"the site {site.path} has not joined a federation yet"
        return [*findings, not_set_up("site", sentence, "hansa-client join TOKEN --epsilon-cap E")]
    try:
        settings = site.settings()
    except HansaError as error:
        return [*findings, problem("site", str(error), well="")]
    return [
        *findings,
        problem("site", None, well=f"{settings.merchant} at {settings.server_address}"),
        *attempted("base models", lambda: _base_models(settings)),
        *attempted("certificate", lambda: _certificates(site)),
        *attempted("permissions", lambda: private_files(private_modes(_private(site)))),
        *attempted("ledger", lambda: _ledger(site)),
        *attempted("service", lambda: _service(site, settings)),
        *attempted("server", lambda: _server(site, settings)),
    ]


def _certificates(site: Site) -> Sequence[Finding]:
    authority = x509.load_pem_x509_certificate(site.authority_pem())
    own = certificate(
        "certificate",
        site.credentials(),
        authority,
        now=utc_now(),
        renews_itself=True,
        remedy=_JOIN_AGAIN,
    )
    return [own, authority_certificate(authority, now=utc_now())]


def _private(site: Site) -> list[Path]:
    keys = [*site.identity.glob("*.key.pem"), *site.applications.glob("*.key.pem")]
    return [*keys, site.ledger / "ledger.key", site.pseudonym_key]


def _ledger(site: Site) -> Finding:
    entries = len(read_ledger(site.ledger).entries)
    return problem("ledger", None, well=f"{entries} entries, unbroken")


def _base_models(settings: SiteSettings) -> Finding:
    missing = [
        f"{name} ({folder})"
        for name, folder in settings.base_models.items()
        if not (folder / "config.json").is_file()
    ]
    error = f"no Hugging Face folder: {', '.join(missing)}" if missing else None
    well = f"{len(settings.base_models)} found"
    return problem("base models", error, well=well, remedy="mend base_models in site.json")


def _service(site: Site, settings: SiteSettings) -> Finding:
    if settings.serving_port == 0:
        return problem("service", None, well="on a port that the system chooses")
    address = f"127.0.0.1:{settings.serving_port}"
    taken = None in connect_errors(address)
    authority = site.applications / "authority.pem"
    ours = taken and shows_certificate_of(address, authority, "localhost")
    return port("service", address, taken=taken, ours=ours, start="hansa-client start")


def _server(site: Site, settings: SiteSettings) -> Sequence[Finding]:
    """Line, handshake, membership, clock and version, by one call that changes nothing."""
    address = settings.server_address
    way = line(connect_errors(address))
    if way.grade is Grade.FAIL:
        return [way, clock(None)]
    try:
        ahead, theirs = _enquire(site, address)
    except HansaError as refused:
        return [way, problem("server", str(refused), well=""), clock(None)]
    well = f"{address} answers this member"
    return [way, problem("server", None, well=well), clock(ahead), protocol(SPEAKS, theirs)]


def _enquire(site: Site, address: str) -> tuple[dt.timedelta | None, WireVersion]:
    own = site.credentials()
    channel = open_channel(
        address,
        authority_pem=site.authority_pem(),
        key_pem=own.key_pem,
        certificate_pem=own.certificate_pem,
    )
    request = pb.EnquireRequest(protocol=SPEAKS.offered_major, protocol_minor=SPEAKS.minor)
    sent = utc_now()
    with channel, translated(address, own.certificate):
        try:
            facts = rpc.EnrolmentStub(channel).Enquire(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            return None, WireVersion(major=SPEAKS.major, minor=0)  # it did not know this call yet
    ahead = clock_ahead(facts.server_time_unix_ms, sent=sent, received=utc_now())
    return ahead, WireVersion(major=SPEAKS.major, minor=facts.protocol_minor)
