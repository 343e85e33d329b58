import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hansa.core.errors import InvalidInputError, UnauthorisedError
from hansa.core.identity import (
    Identity,
    Role,
    certificate_request,
    identity_of,
    issue,
    load_key,
    make_authority,
    make_key,
    public_key_of_request,
)
from hansa.core.invitation import Invitation

NOW = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
MERCHANT = Identity(role=Role.MERCHANT, name="harbour")


@pytest.fixture(scope="module")
def authority():
    return make_authority("test", now=NOW, valid_for=DAY)


def test_a_certificate_gives_back_the_identity_it_was_issued_for(authority) -> None:
    certificate = issue(authority, make_key().public_key(), MERCHANT, now=NOW, valid_for=DAY)
    assert identity_of(certificate) == MERCHANT
    certificate.verify_directly_issued_by(authority.certificate)


def test_a_merchants_certificate_cannot_stand_for_a_server(authority) -> None:
    certificate = issue(authority, make_key().public_key(), MERCHANT, now=NOW, valid_for=DAY)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == []


def test_the_issuer_decides_the_identity_not_the_request(authority) -> None:
    key = make_key()
    request = certificate_request(key, "operator")
    certificate = issue(authority, public_key_of_request(request), MERCHANT, now=NOW, valid_for=DAY)
    assert identity_of(certificate) == MERCHANT
    assert certificate.public_key() == key.public_key()


def test_an_authority_cannot_make_further_authorities(authority) -> None:
    constraints = authority.certificate.extensions.get_extension_for_class(
        x509.BasicConstraints
    ).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


@pytest.mark.parametrize(
    "uri",
    [
        "hansa://merchant/",
        "hansa://king/harbour",
        "https://merchant/harbour",
        "",
        "hansa:merchant/harbour",
    ],
)
def test_a_foreign_name_is_no_identity(uri) -> None:
    with pytest.raises(UnauthorisedError):
        Identity.parse(uri)


def _certificate_with(names: list[x509.GeneralName]) -> x509.Certificate:
    key = make_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, NOW, NOW + DAY)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize("count", [0, 2])
def test_a_certificate_needs_exactly_one_uri_name(count) -> None:
    uris = [
        x509.UniformResourceIdentifier(f"hansa://merchant/m{number}") for number in range(count)
    ]
    with pytest.raises(UnauthorisedError):
        identity_of(_certificate_with(list(uris)))


def test_a_request_for_another_kind_of_key_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(InvalidInputError, match="P-256"):
        public_key_of_request(request.public_bytes(serialization.Encoding.DER))


def test_a_request_that_was_altered_is_refused() -> None:
    request = bytearray(certificate_request(make_key(), "harbour"))
    request[-1] ^= 1
    with pytest.raises(InvalidInputError):
        public_key_of_request(bytes(request))


def test_a_key_on_another_curve_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        load_key(b"no key")
    request = certificate_request(ec.generate_private_key(ec.SECP384R1()), "x")
    with pytest.raises(InvalidInputError, match="P-256"):
        public_key_of_request(request)


INVITATION = Invitation(
    merchant="harbour",
    address="server.example:443",
    authority_pem="A",
    certificate_pem="B",
    key_pem="SECRET",
)


def test_a_token_is_one_line_that_says_all_it_was_made_of() -> None:
    token = INVITATION.to_token()
    assert "\n" not in token
    assert Invitation.from_token(f"  {token}\n") == INVITATION


def test_a_token_does_not_show_its_key_when_printed() -> None:
    assert "SECRET" not in repr(INVITATION)


@pytest.mark.parametrize("token", ["", "hello", "hansa1.", "hansa1.%%%", "hansa1." + "A" * 9000])
def test_what_is_no_token_is_refused_with_advice(token) -> None:
    with pytest.raises(InvalidInputError, match="copy the whole line"):
        Invitation.from_token(token)


def test_a_token_that_was_cut_off_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="copy the whole line"):
        Invitation.from_token(INVITATION.to_token()[:-7])
