"""Whether a run's plan kept to the terms that a merchant had accepted."""

from hansa.core.contract import Contract
from hansa.core.contract_rules import check_plan
from hansa.core.errors import AuditFailedError, HansaError
from hansa.core.plan import RunPlan
from hansa.core.privacy.entries import Accept, Reserve
from hansa.core.privacy.ledger import Ledger


def keeps_to_contract(ledger: Ledger, run: str, plan: RunPlan) -> str:
    """Compares the plan with the terms in force at each of the run's reservations.

    Raises:
        AuditFailedError: a term was broken; the sentence names the entry.
    """
    contract: Contract | None = None
    checked: set[str] = set()
    for entry in ledger.entries:
        match entry.body:
            case Accept() as body:
                contract = body.contract
            case Reserve(run=reserved) if reserved == run and contract is not None:
                if contract.digest not in checked:
                    _check(contract, plan, ledger, entry.position)
                    checked.add(contract.digest)
            case _:
                pass
    if not checked:
        return "no terms were accepted before this run: the caps alone bound it"
    return f"the plan keeps to {len(checked)} accepted contract{'s' * (len(checked) > 1)}"


def _check(contract: Contract, plan: RunPlan, ledger: Ledger, position: int) -> None:
    opening = ledger.opening
    try:
        check_plan(contract, plan, unit=opening.unit, delta=opening.delta)
    except HansaError as error:
        raise AuditFailedError(f"ledger entry {position}: {error}") from error
