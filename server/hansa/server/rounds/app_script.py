"""What a ServerApp saw, written down, so that a restarted server can show it the same again.

A ServerApp's course hangs on its messages' replies, which are durable anyway, and on two things
more: its random numbers, and which nodes it was told of. The first begin with a seed that is drawn
once a run; the second are noted with each message that it sends.
"""

import random
import secrets
import sys
from typing import Any, Final

import numpy as np

from hansa.core.ids import RunId
from hansa.server.state.journal import Journal

_KIND: Final = "app"
_SEED_BYTES: Final = 32


class AppScript:
    """The notes of one run. Call it under one lock."""

    def __init__(self, run_id: RunId, journal: Journal) -> None:
        self._run_id = run_id
        self._journal = journal
        notes = {body["step"]: body for body in journal.bodies(_KIND, run=run_id)}
        self._steps: dict[int, list[list[Any]]] = {
            step: body["nodes"] for step, body in notes.items() if step > 0
        }
        self._seed = notes[0]["seed"] if 0 in notes else None
        self._step = 1
        self._seen: list[list[Any]] = []

    def seed(self) -> bytes:
        """The run's seed: secret to the server, the same at each restart."""
        if self._seed is None:
            self._seed = secrets.token_hex(_SEED_BYTES)
            self._journal.note(_KIND, run=self._run_id, step=0, seed=self._seed)
        return bytes.fromhex(self._seed)

    def nodes(self) -> list[int] | None:
        """What the app was told the first time; None where it is beyond its notes.

        An app that asks more often than the first time hears the last answer again.
        """
        noted = self._steps.get(self._step)
        if not noted:
            return None
        nodes, count = noted[0]
        if len(noted) > 1:
            self._steps[self._step] = [[nodes, count - 1], *noted[1:]] if count > 1 else noted[1:]
        return list(nodes)

    def told(self, nodes: list[int]) -> None:
        """Notes an answer that the app got just now."""
        if self._seen and self._seen[-1][0] == nodes:
            self._seen[-1][1] += 1
        else:
            self._seen.append([nodes, 1])

    def sent(self) -> None:
        """The app is about to send: what it was told before that is kept."""
        if self._step not in self._steps:
            self._journal.note(_KIND, run=self._run_id, step=self._step, nodes=self._seen)
        self._seen = []
        self._step += 1


def sow(seed: bytes) -> None:
    """Seeds the process' generators, as far as they are loaded; an app's own seeds come later."""
    random.seed(seed)
    np.random.seed(np.frombuffer(seed, np.uint32))  # noqa: NPY002 - it is what apps draw from
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(int.from_bytes(seed[:7], "big"))


def scatter() -> None:
    """Undoes ``sow``: what this process draws later hangs on no run's seed."""
    sow(secrets.token_bytes(_SEED_BYTES))
