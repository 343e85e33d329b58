"""Names of things, as types of their own, so that one cannot stand where another is meant."""

from typing import NewType

MerchantId = NewType("MerchantId", str)
"""A merchant's name in the federation: lower-case letters, digits and hyphens."""

RunId = NewType("RunId", str)
"""One execution of a plan."""

TaskId = NewType("TaskId", str)
"""``run/round/phase/merchant``: the idempotency key of one piece of work."""

Sha256 = NewType("Sha256", str)
"""A SHA-256 digest, 64 lower-case hexadecimal digits."""

ReleaseVersion = NewType("ReleaseVersion", int)
"""A release's number within its channel, from 1 upward."""


def task_id(run: RunId, round_number: int, phase: str, merchant: MerchantId) -> TaskId:
    """The same work always has the same id, so that a repeated message changes nothing."""
    return TaskId(f"{run}/{round_number}/{phase}/{merchant}")
