"""Collects the auditor's evidence of one run out of the server's books."""

import datetime as dt
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from hansa.core import evidence as packs
from hansa.core.identity import certificate_of
from hansa.core.ids import MerchantId, RunId
from hansa.core.privacy.entries import Entry
from hansa.core.signing import Signed
from hansa.core.transparency.checkpoint import SignedCheckpoint
from hansa.server.state.journal import LedgerCopies
from hansa.server.state.members import Members
from hansa.server.state.runs import RoundRecord, Runs
from hansa.server.state.tables import RunRow
from hansa.server.state.tasks import Tasks
from hansa.server.transparency.logged import Logged
from hansa.server.transparency.scribe import Scribe
from hansa.server.transparency.store import LogStore

_LEAVES_AT_ONCE = 10_000


class ReleaseEvidence(Protocol):
    """Where the signed bytes of a release come from."""

    def evidence(self, version: int) -> packs.Release:
        """The manifest and the TUF metadata of a release."""
        ...


@dataclass(frozen=True, kw_only=True)
class LogReader:
    """The transparency log, brought up to date before it is read."""

    store: LogStore
    scribe: Scribe

    def copy(self) -> packs.LogCopy:
        """Everything that is stated now, under its checkpoint."""
        note = self.scribe.catch_up()
        size = SignedCheckpoint.parse(note, "the stored checkpoint").checkpoint.size
        pages = range(0, size, _LEAVES_AT_ONCE)
        leaves = [
            body
            for first in pages
            for body in self.store.bodies(first, min(first + _LEAVES_AT_ONCE, size))
        ]
        return packs.LogCopy(checkpoint=note, leaves=tuple(leaves))


@dataclass(frozen=True, kw_only=True)
class EvidenceDesk:
    """Makes audit packs; it reads, and changes nothing."""

    runs: Runs
    members: Members
    tasks: Tasks
    copies: LedgerCopies
    releases: ReleaseEvidence
    plan_key: Ed25519PrivateKey
    log: LogReader

    def pack(self, run_id: RunId) -> bytes:
        """The audit pack of one run.

        Raises:
            NotFoundError: there is no such run.
        """
        log = self.log.copy()
        logged = Logged.of(run_id, log.leaves)
        row = self.runs.get(run_id)
        asked = self.tasks.merchants_of(run_id)
        evidence = packs.Evidence(
            plan=Signed.parse(row.signed_plan, "the stored plan"),
            run=_run_record(row, self.runs.rounds(run_id), logged),
            merchants={name: record for name, record in self._merchants().items() if name in asked},
            ledgers={name: self.ledger(name)[: logged.entries(name)] for name in asked},
            release=self.releases.evidence(row.release_version) if logged.release else None,
            log=log,
        )
        return packs.write_pack(evidence, self.plan_key)

    def ledger(self, merchant: MerchantId) -> tuple[Entry, ...]:
        """The server's copy of a merchant's ledger."""
        return tuple(
            Entry.parse(line.encode(), f"the ledger copy of {merchant}")
            for line in self.copies.lines(merchant)
        )

    def _merchants(self) -> dict[MerchantId, packs.MerchantRecord]:
        return {
            MerchantId(row.name): packs.MerchantRecord(
                ledger_public_key=row.ledger_public_key.hex(),
                certificate_pem=certificate_of(row.certificate_der)
                .public_bytes(Encoding.PEM)
                .decode(),
            )
            for row in self.members.everyone()
            if row.ledger_public_key is not None and row.certificate_der is not None
        }


def _run_record(row: RunRow, rounds: list[RoundRecord], logged: Logged) -> packs.RunRecord:
    """The run as far as the log states it: what came after the checkpoint is for the next pack."""
    stated = [record for record in rounds if record.number in logged.rounds]
    return packs.RunRecord(
        run=row.run_id,
        plan_digest=row.plan_digest,
        rounds=tuple(_round_record(record) for record in stated),
        started=_moment(row.started),
        finished=_moment(row.finished) if logged.ended and row.finished is not None else None,
    )


def _round_record(record: RoundRecord) -> packs.RoundRecord:
    return packs.RoundRecord(
        round=record.number,
        cohort=tuple(record.cohort),
        accepted={str(name): str(sha) for name, sha in record.accepted.items()},
        refused={
            name: f"{refusal.reason}: {refusal.sentence}"[:500]
            for name, refusal in record.refused.items()
        },
        aggregate_sha256=record.aggregate_sha256 or None,  # a foreign app keeps its own
        began={str(name): number for name, number in record.began.items()},
    )


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
