"""CPU seconds of a secure round, for one member and for the server.

Run it with ``python -m benchmarks.federation_parts.secagg``; ``--members``, ``--parameters`` and
``--dropouts`` change the round. It prints one JSON object:

* ``secagg_client_cpu_s``: one member's five stages together, content files read and written as on
  the wire; the median over the members that stay to the end. Expected: below 0.2 for 32 members and
  74,000 parameters; the limit is 1. Members that run at the same machine do not share any of it.
* ``server_cpu_s``: the server's five stages together; it grows with members times drop-outs.
* ``uplink_bytes``: what one member sends.

Training, TLS and the database are not in it: ``time.process_time`` around the protocol alone. There
is no peer here: Flower 1.41 has secure aggregation for its older interface only.
"""

import argparse
import datetime as dt
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from hansa.core.content import Content
from hansa.core.identity import Credentials, Identity, Role, issue, make_authority, make_key
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.secure import collector
from hansa.core.secure.fixed_point import FixedPoint
from hansa.core.secure.member import Member
from hansa.core.secure.messages import names_content
from hansa.core.secure.protocol import Setting
from hansa.core.secure.roster import Sign, Trust
from hansa.core.secure.state import MemberState

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
SETTING = Setting(
    run=RunId("benchmark"),
    round_number=1,
    plan_digest=Sha256("0" * 64),
    threshold_fraction=0.67,
    quorum=3,
    coding=FixedPoint(fraction_bits=24, max_abs=8.0, largest_group=1000),
)

_T = TypeVar("_T")


class SystemEntropy:
    """The kernel's randomness."""

    def random_bytes(self, n: int, /) -> bytes:
        """``n`` independent, uniform bytes."""
        return os.urandom(n)


class Meter:
    """CPU seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], _T]) -> _T:
        """Does the work on the name's account."""
        started = time.process_time()
        result = work()
        spent = time.process_time() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + spent
        return result


class Round:
    """One round between members and a server in this process."""

    def __init__(self, members: int, parameters: int) -> None:
        self._meter = Meter()
        self._authority = make_authority("benchmark", now=NOW, valid_for=DAY)
        self._trust = Trust(authorities=(self._authority.certificate,), now=NOW)
        self._names = [MerchantId(f"m{at:04}") for at in range(members)]
        self._credentials = {name: self._enrolled(name) for name in self._names}
        self._members = {name: Member(setting=SETTING, merchant=name) for name in self._names}
        self._states: dict[MerchantId, MemberState] = {}
        rng = np.random.default_rng(0)
        self._parameters = parameters
        self._update = rng.normal(0.0, 0.01, parameters).astype(np.float32)
        self.uplink_bytes = 0

    def _enrolled(self, name: MerchantId) -> Credentials:
        key = make_key()
        identity = Identity(role=Role.MERCHANT, name=name)
        certificate = issue(self._authority, key.public_key(), identity, now=NOW, valid_for=DAY)
        return Credentials(key=key, certificate=certificate)

    def run(self, dropouts: int) -> dict[str, float]:
        """CPU seconds by name; the last members drop out before the masked update."""
        staying = self._names[: len(self._names) - dropouts]
        roster, _ = self._server(
            lambda answers: collector.collect_keys(SETTING, answers, self._trust),
            {name: self._meter(name, partial(self._advertise, name)) for name in self._names},
        )
        request = self._meter("server", roster.to_content().to_bytes)
        dealt, _ = self._server(
            lambda answers: collector.collect_shares(roster, answers),
            {name: self._meter(name, partial(self._share, name, request)) for name in self._names},
        )
        request = self._meter("server", names_content(sharers=dealt.sharers).to_bytes)
        masked, _ = self._server(
            lambda answers: collector.collect_masked(dealt, answers, self._parameters),
            {name: self._meter(name, partial(self._mask, name, request)) for name in staying},
        )
        request = self._meter("server", names_content(survivors=masked.survivors).to_bytes)
        agreed, _ = self._server(
            lambda answers: collector.collect_votes(masked, answers),
            {name: self._meter(name, partial(self._vote, name, request)) for name in staying},
        )
        requests = {
            name: self._meter("server", agreed.request_for(name).to_content().to_bytes)
            for name in staying
        }
        answers = {
            name: self._meter(name, partial(self._reveal, name, requests[name])) for name in staying
        }
        total, _ = self._server(lambda given: collector.unmask(agreed, given), answers)
        self._check(total, len(staying))
        return {name: self._meter.seconds[name] for name in [*staying, "server"]}

    def _server(
        self,
        work: Callable[[Mapping[MerchantId, Content]], _T],
        answers: Mapping[MerchantId, bytes],
    ) -> _T:
        self.uplink_bytes += len(next(iter(answers.values())))
        return self._meter(
            "server",
            lambda: work({name: Content.from_bytes(data) for name, data in answers.items()}),
        )

    def _advertise(self, name: MerchantId) -> bytes:
        own = self._credentials[name]
        self._states[name] = self._members[name].advertise(
            b"begin",
            sign=_signer(own),
            certificate=own.certificate.public_bytes(serialization.Encoding.DER),
            entropy=SystemEntropy(),
        )
        return self._stored(name, "keys")

    def _share(self, name: MerchantId, request: bytes) -> bytes:
        self._states[name] = self._members[name].share(
            self._states[name], request, trust=self._trust, entropy=SystemEntropy()
        )
        return self._stored(name, "shares")

    def _mask(self, name: MerchantId, request: bytes) -> bytes:
        state = self._members[name].begin_masking(self._states[name], request)
        self._states[name] = state
        state.line("train", 0)
        return self._members[name].masked(state, self._update).to_bytes()

    def _vote(self, name: MerchantId, request: bytes) -> bytes:
        self._states[name] = self._members[name].vote(self._states[name], request)
        return self._stored(name, "survivors")

    def _reveal(self, name: MerchantId, request: bytes) -> bytes:
        self._states[name] = self._members[name].reveal(self._states[name], request)
        return self._stored(name, "unmask")

    def _stored(self, name: MerchantId, stage: str) -> bytes:
        """As the shell does: in the file's form, but for the disk."""
        state = self._states[name]
        if stage in ("keys", "shares"):
            state.to_bytes()
        elif stage == "survivors":
            state.line(stage, 0)
        return state.reply(stage)

    def _check(self, total: np.ndarray, members: int) -> None:
        exact = SETTING.coding.decode(SETTING.coding.encode(self._update)) * members
        if not np.array_equal(total, exact):
            raise SystemExit("the sum is wrong: this benchmark shows nothing")


def _signer(own: Credentials) -> Sign:
    return lambda message: own.key.sign(message, ec.ECDSA(SHA256()))


def measure(*, members: int, parameters: int, dropouts: int) -> dict[str, float | int]:
    """The figures that the module's docstring names."""
    around = Round(members, parameters)
    seconds = around.run(dropouts)
    server = seconds.pop("server")
    return {
        "secagg_client_cpu_s": round(statistics.median(seconds.values()), 4),
        "server_cpu_s": round(server, 4),
        "n": members,
        "parameters": parameters,
        "dropouts": dropouts,
        "uplink_bytes": around.uplink_bytes,
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description="CPU seconds of a secure round")
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--parameters", type=int, default=74_000)
    parser.add_argument("--dropouts", type=int, default=9)
    options = parser.parse_args()
    figures = measure(
        members=options.members, parameters=options.parameters, dropouts=options.dropouts
    )
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
