"""Whom a round asks: whoever is there and not in quarantine, at most as many as the plan wants.

Pure rules over the rounds' records, so that a server that was restarted decides the same.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from hansa.core.canonical import sha256_hex
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import FederationSpec, QuarantineSpec
from hansa.server.state.runs import RoundRecord

BUDGET = "budget"
DEADLINE = "deadline"
SURPLUS = "surplus"
FAULTS = frozenset({"contract", DEADLINE, "failed", "rejected"})
"""Reasons that count against a merchant; a spent budget or a full cohort does not."""


def exhausted(records: Iterable[RoundRecord]) -> set[MerchantId]:
    """The merchants whose budget was spent in one of these rounds."""
    return {
        name
        for record in records
        for name, refusal in record.refused.items()
        if refusal.reason == BUDGET
    }


def quarantines(records: Iterable[RoundRecord], rule: QuarantineSpec) -> dict[MerchantId, int]:
    """The last round through which each merchant that failed too often is left out.

    ``rule.faults`` faults in a row begin a quarantine of ``rule.rounds`` rounds; after it, one
    valid update clears the record, and one more fault begins the next quarantine.
    """
    streaks: Counter[MerchantId] = Counter()
    left_out: dict[MerchantId, int] = {}
    for record in records:
        for name, refusal in record.refused.items():
            if name in record.cohort and refusal.reason in FAULTS:
                streaks[name] += 1
                if streaks[name] >= rule.faults:
                    left_out[name] = record.number + rule.rounds
        for name in record.accepted:
            streaks[name] = 0
    return left_out


def wanted(spec: FederationSpec, eligible: int) -> int:
    """How many merchants a round asks of those that it may ask."""
    if spec.cohort is None:
        return eligible
    return min(eligible, math.ceil(spec.cohort * (1.0 + spec.over_selection)))


def draw(
    eligible: Sequence[MerchantId], count: int, *, run: RunId, round_number: int
) -> list[MerchantId]:
    """A public lottery by hash: every merchant has the same chance in every round.

    Repeated for the same run, round and merchants, it draws the same.
    """

    def ticket(name: MerchantId) -> str:
        return sha256_hex(f"{run}/{round_number}/{name}".encode())

    return sorted(sorted(eligible, key=ticket)[:count])
