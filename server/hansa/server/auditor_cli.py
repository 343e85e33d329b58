"""``hansa-server auditor``: who may read the log and the packs without being a member."""

from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hansa.core.canonical import canonical_json
from hansa.core.errors import InvalidInputError
from hansa.core.storage import write_atomically
from hansa.protos.v1 import operator_pb2 as pb
from hansa.server.cli_options import STATE, Server, State
from hansa.server.operator_client import connect
from hansa.server.settings import StateFolder

auditor_app = typer.Typer(help="Let auditors read the log and the packs.", no_args_is_help=True)


@auditor_app.command()
def admit(
    name: Annotated[str, typer.Argument(help="Name: lower-case letters, digits, hyphens.")],
    request: Annotated[
        Path, typer.Argument(help="The auditor's request, made by 'hansa-audit request'.")
    ],
    out: Annotated[Path, typer.Option(help="File to write the grant to; it is no secret.")],
    days: Annotated[int, typer.Option(help="The certificate is valid for so many days.")] = 30,
    state: State = STATE,
    server: Server = None,
) -> None:
    """Certify an auditor's key for reading; a second grant of a name replaces the first."""
    try:
        csr = request.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"cannot read {request}: {error.strerror}") from error
    with connect(StateFolder(state), server) as client:
        grant = client.admit_auditor(name, csr, days)
    write_atomically(out, grant_file(grant))
    typer.echo(f"{name} may read the log and the packs for {days} days; hand over {out}")


@auditor_app.command()
def dismiss(
    name: Annotated[str, typer.Argument(help="Name of the auditor.")],
    state: State = STATE,
    server: Server = None,
) -> None:
    """End an auditor's reading at once."""
    with connect(StateFolder(state), server) as client:
        client.dismiss_auditor(name)
    typer.echo(f"{name} may not read any more")


def grant_file(grant: pb.AuditorGrant) -> bytes:
    """The grant as the auditor's command reads it."""
    certificate = x509.load_der_x509_certificate(grant.certificate_der)
    return canonical_json(
        {
            "format": "hansa-auditor 1",
            "name": grant.name,
            "address": grant.address,
            "authority_pem": grant.authority_pem.decode(),
            "certificate_pem": certificate.public_bytes(Encoding.PEM).decode(),
            "plan_key": grant.plan_public_key.hex(),
        }
    )
