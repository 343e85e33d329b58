"""What foreign apps released: declared byte for byte, and counted by nobody."""

from collections.abc import Sequence

from hansa.core.errors import AuditFailedError
from hansa.core.evidence import RoundRecord, RunRecord
from hansa.core.ids import TaskId
from hansa.core.privacy.entries import Declare
from hansa.core.privacy.ledger import Ledger


def check_declared(
    ledger: Ledger, task: TaskId, one: RoundRecord, run: RunRecord, app: str
) -> None:
    """The merchant owns to the very bytes that the server accepted of this app.

    Raises:
        AuditFailedError: it does not; the sentence names the round.
    """
    body = ledger.declaration(task)
    if body is None:
        raise AuditFailedError(f"round {one.round}: task {task} was never declared")
    work = (body.app, body.run, body.round, body.phase, body.plan_digest)
    if work != (app, run.run, one.round, run.phase, run.plan_digest):
        raise AuditFailedError(f"round {one.round}: the declaration is for other work")
    if body.sha256 != one.accepted[task.rpartition("/")[2]]:
        raise AuditFailedError(
            f"round {one.round}: the accepted update is not the one that was declared"
        )


def name_declared(declared: Sequence[Declare]) -> str:
    """How many there are, and of which apps."""
    apps = ", ".join(sorted({body.app for body in declared}))
    return (
        f"{len(declared)} releases of {apps} under the merchant's own responsibility; "
        "epsilon does not count them"
    )
