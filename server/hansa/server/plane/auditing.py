"""The operator's calls that let auditors in, and out."""

import datetime as dt
from dataclasses import dataclass

from hansa.core.errors import InvalidInputError
from hansa.protos.v1 import operator_pb2 as pb
from hansa.server.authority import Authority
from hansa.server.state.auditors import Auditors

_LONGEST_DAYS = 397


@dataclass(frozen=True, kw_only=True)
class AuditDesk:
    """Issues auditors' certificates."""

    authority: Authority
    auditors: Auditors
    address: str
    """Where the server is reached."""

    def admit(self, name: str, request: pb.AdmitAuditorRequest) -> pb.AuditorGrant:
        """Certifies an auditor's own key.

        Raises:
            InvalidInputError: the request or the time is out of bounds.
        """
        if not 1 <= request.valid_for_days <= _LONGEST_DAYS:
            raise InvalidInputError(
                f"an auditor's certificate is valid for 1 to {_LONGEST_DAYS} days"
            )
        valid_for = dt.timedelta(days=request.valid_for_days)
        certificate, expires = self.authority.certify_auditor(name, request.csr_der, valid_for)
        self.auditors.admit(name, certificate, expires)
        return pb.AuditorGrant(
            name=name,
            certificate_der=certificate,
            authority_pem=self.authority.authority_pem,
            address=self.address,
            plan_public_key=self.authority.plan_public_key,
        )

    def dismiss(self, name: str) -> None:
        """Ends an auditor's reading at once.

        Raises:
            NotFoundError: there is none of that name.
        """
        self.auditors.dismiss(name)
