"""Joining a federation: the key is made here, a request goes out, a certificate comes back."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509

from hansa.client.channel import CALL_TIMEOUT_S, open_channel, translated
from hansa.client.contract_offer import with_this_code
from hansa.client.entropy import SystemEntropy
from hansa.client.ledger_store import LedgerStore
from hansa.client.site import Site, SiteSettings
from hansa.client.version import SPEAKS
from hansa.core.contract import Contract
from hansa.core.credentials import write_credentials
from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.identity import (
    Credentials,
    Identity,
    Key,
    Role,
    certificate_of,
    certificate_request,
    due_from,
    identity_of,
    issue,
    key_pem,
    load_key,
    make_authority,
    make_key,
)
from hansa.core.invitation import Invitation
from hansa.core.privacy.events import UNIT, Unit
from hansa.core.privacy.ledger import Ledger
from hansa.core.storage import write_atomically
from hansa.protos.v1 import enrolment_pb2 as pb
from hansa.protos.v1 import enrolment_pb2_grpc as rpc

_SITE_VALID = dt.timedelta(days=3650)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the merchant agrees to when it joins."""

    epsilon_cap: float
    """The privacy ledger refuses whatever would bring a shopper's epsilon above this, for ever."""
    delta: float
    base_models: Mapping[str, Path]
    serving_port: int
    update_period_s: float
    unit: Unit = UNIT
    """Whom the ledger protects, for its whole life."""
    contract: Contract | None = None
    """What the server may ask for; absent, the defaults."""


def join(site: Site, invitation: Invitation, terms: Terms, now: dt.datetime) -> SiteSettings:
    """Makes the site a member; repeating it after a lost reply is harmless.

    A site that was a member before joins again with a new token, and keeps its ledger.

    Raises:
        ConflictError: the site belongs to another merchant, its ledger has other terms, or the
            server is too old for terms of the merchant's own.
        UnauthorisedError: the invitation is not valid any more.
        TransportError: the server cannot be reached.
    """
    if site.has_joined() and site.settings().merchant != invitation.merchant:
        raise ConflictError(
            f"{site.path} belongs to {site.settings().merchant}; choose another folder with --site"
        )
    key = _own_key(site)
    ledger_key = _open_ledger(site, terms, now)
    membership = _ask(site, invitation, ledger_key)
    certificate = certificate_of(membership.certificate_der)
    if identity_of(certificate) != Identity(role=Role.MERCHANT, name=invitation.merchant):
        raise InvalidInputError(
            "the server issued a certificate for somebody else; tell the operator"
        )
    write_credentials(site.identity, "merchant", Credentials(key=key, certificate=certificate))
    write_atomically(site.identity / "authority.pem", invitation.authority_pem.encode())
    write_atomically(site.identity / "root.json", membership.tuf_root)
    if not site.has_joined():
        make_application_credentials(site, now)
    _accept_contract(site, membership, terms, now)
    settings = SiteSettings(
        merchant=invitation.merchant,
        server_address=invitation.address,
        plan_public_key=membership.plan_public_key.hex(),
        base_models=dict(terms.base_models),
        serving_port=terms.serving_port,
        update_period_s=terms.update_period_s,
    )
    site.write(settings)
    return settings


def renew_if_due(site: Site, channel: grpc.Channel, now: dt.datetime) -> bool:
    """Gets a new certificate for the same key in the last third of the present one's life.

    The server lets the old certificate pass until the new one was used, so a lost reply does no
    harm. Returns whether a new one was written; connect again to use it. Where the new one seems
    due again (the clock of this machine is wrong), it is False, so that nobody renews in a circle.
    """
    present = site.credentials()
    if now < due_from(present.certificate):
        return False
    request = pb.RenewRequest(csr_der=certificate_request(present.key, "renewal"))
    stub = rpc.EnrolmentStub(channel)
    membership: pb.Membership = stub.Renew(request, timeout=CALL_TIMEOUT_S)
    certificate = certificate_of(membership.certificate_der)
    if identity_of(certificate) != identity_of(present.certificate):
        raise InvalidInputError("the server renewed for somebody else; tell the operator")
    renewed = Credentials(key=present.key, certificate=certificate)
    write_credentials(site.identity, "merchant", renewed)
    return now < due_from(certificate)


def make_application_credentials(site: Site, now: dt.datetime) -> None:
    """Certificates for the shop's own applications, from an authority that only this site has."""
    authority = make_authority("Hansa site applications", now=now, valid_for=_SITE_VALID)
    service = Identity(role=Role.SERVER, name="retail")
    caller = Identity(role=Role.APPLICATION, name="shop")
    write_credentials(site.applications, "authority", authority)
    for name, identity, hosts in (
        ("service", service, ("localhost", "127.0.0.1")),
        ("shop", caller, ()),
    ):
        key = make_key()
        certificate = issue(
            authority, key.public_key(), identity, now=now, valid_for=_SITE_VALID, hosts=hosts
        )
        write_credentials(site.applications, name, Credentials(key=key, certificate=certificate))


def _own_key(site: Site) -> Key:
    path = site.identity / "merchant.key.pem"
    if path.exists():
        return load_key(path.read_bytes())
    key = make_key()
    write_atomically(path, key_pem(key), mode=0o600)
    return key


def _ask(site: Site, invitation: Invitation, ledger_key: bytes) -> pb.Membership:
    request_file = site.identity / "request.der"
    if not request_file.exists():
        # Signatures are randomised: the very same request must be sent again after a lost reply.
        write_atomically(request_file, certificate_request(_own_key(site), invitation.merchant))
    request = pb.JoinRequest(
        protocol=SPEAKS.offered_major,
        protocol_minor=SPEAKS.minor,
        csr_der=request_file.read_bytes(),
        ledger_public_key=ledger_key,
    )
    channel = open_channel(
        invitation.address,
        authority_pem=invitation.authority_pem.encode(),
        key_pem=invitation.key_pem.encode(),
        certificate_pem=invitation.certificate_pem.encode(),
    )
    shown = x509.load_pem_x509_certificate(invitation.certificate_pem.encode())
    with channel, translated(invitation.address, shown):
        stub = rpc.EnrolmentStub(channel)
        membership: pb.Membership = stub.Join(request, timeout=CALL_TIMEOUT_S)
        return membership


def _check_terms(ledger: Ledger, terms: Terms) -> None:
    """A ledger of an earlier attempt keeps its cap: it cannot be set anew in passing."""
    opening = ledger.opening
    found = (ledger.cap_epsilon, opening.delta, opening.unit)
    if found != (terms.epsilon_cap, terms.delta, terms.unit):
        raise ConflictError(
            f"this site's ledger was opened with cap {ledger.cap_epsilon:g} at delta "
            f"{opening.delta:g} for each {opening.unit}; join with these, and use 'raise-cap' "
            "afterwards"
        )


def _accept_contract(site: Site, membership: pb.Membership, terms: Terms, now: dt.datetime) -> None:
    """Everything is under a contract from the start; one that was accepted before stays."""
    if not membership.takes_contracts:
        if terms.contract is not None:
            raise ConflictError(
                "this server is of a version that knows no contracts; join without --contract, or "
                "ask the operator to update it"
            )
        return
    with LedgerStore.open(site.ledger) as store:
        if store.ledger.accepted is None:
            store.accept(with_this_code(terms.contract or Contract(units=(terms.unit,))), now=now)


def _open_ledger(site: Site, terms: Terms, now: dt.datetime) -> bytes:
    """Opens the privacy ledger (or finds the one of an earlier attempt); returns its public key."""
    try:
        store = LedgerStore.create(
            site.ledger,
            cap_epsilon=terms.epsilon_cap,
            delta=terms.delta,
            unit=terms.unit,
            entropy=SystemEntropy(),
            now=now,
        )
    except ConflictError:
        store = LedgerStore.open(site.ledger)
    with store:
        _check_terms(store.ledger, terms)
        return bytes.fromhex(store.ledger.opening.public_key)
