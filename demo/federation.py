"""The demo's four merchants and their operator, each by its own command and process."""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import show
from processes import Processes, StepError, free_port

from hansa.client.site import Site
from hansa.core.storage import write_atomically

_START_S = 90.0
_RUN_S = 300.0
_FINISHED = ("completed", "failed", "stopped")


@dataclass(frozen=True, kw_only=True)
class Merchant:
    """One shop: its exports and its site."""

    name: str
    catalogue: Path
    events: Path
    mapping: Mapping[str, str]
    site: Path
    epsilon_cap: float
    port: int = field(default_factory=free_port)


class Federation:
    """Every step as a person in that role would type it."""

    def __init__(
        self,
        processes: Processes,
        out: Path,
        merchants: list[Merchant],
        *,
        base_model: Path,
        public_catalogue: Path,
    ) -> None:
        self._processes = processes
        self._out = out
        self._state = out / "server"
        self._base_model = base_model
        self._public_catalogue = public_catalogue
        self._address = f"127.0.0.1:{free_port()}"
        self.merchants = merchants

    def _server(self, *words: str) -> tuple[str, ...]:
        return ("hansa-server", *words, "--state", str(self._state))

    def open(self) -> None:
        """The operator makes its state and starts the server."""
        catalogue = ("--public-catalogue", str(self._public_catalogue))
        model = ("--base-model", f"minilm={self._base_model}")
        self._processes.run(
            *self._server(
                "init", "--address", self._address, *model, *catalogue, "--listen", "127.0.0.1"
            )
        )
        self._processes.start("server", *self._server("start"), threads=2)
        self._processes.wait_until("the server's answer", self._answers, timeout_s=_START_S)

    def _answers(self) -> bool:
        return self._processes.run(*self._server("merchants"), check=False).returncode == 0

    def enrol(self, plan: Path) -> dict[str, Any]:
        """Every merchant is invited, looks, joins, ingests, starts; returns the ingest reports."""
        with show.step(
            "merchants: invite, preview, join, ingest, start", len(self.merchants)
        ) as bar:

            def one(merchant: Merchant) -> tuple[str, Any]:
                report = self._enrol(merchant, plan)
                bar.advance()
                return merchant.name, report

            with ThreadPoolExecutor(2) as pool:
                try:
                    reports = dict(pool.map(one, self.merchants))
                except BaseException:
                    # The pool would wait for commands that nobody needs any more.
                    self._processes.stop()
                    raise
            self._processes.wait_until(
                "every merchant online", self._all_online, timeout_s=_START_S
            )
        return reports

    def _enrol(self, merchant: Merchant, plan: Path) -> Any:
        token = self._out / f"{merchant.name}.token"
        self._processes.run(*self._server("invite", merchant.name, "--out", str(token)))
        model = ("--base-model", f"minilm={self._base_model}")
        preview = self._processes.json("hansa-client", "preview", str(plan), *model)
        (self._out / f"{merchant.name}.preview.json").write_text(json.dumps(preview, indent=2))
        cap = ("--epsilon-cap", str(merchant.epsilon_cap))
        serving = ("--serving-port", str(merchant.port), "--update-period-s", "1")
        self._site(merchant, "join", f"@{token}", *cap, *serving, *model)
        self._settle_split(merchant)
        pairs = [
            word
            for ours, theirs in merchant.mapping.items()
            for word in ("--map", f"{ours}={theirs}")
        ]
        files = (str(merchant.catalogue), str(merchant.events))
        report = self._processes.json(
            "hansa-client", "ingest", *files, *pairs, "--site", str(merchant.site)
        )
        self._processes.start(merchant.name, "hansa-client", "start", "--site", str(merchant.site))
        return report

    @staticmethod
    def _settle_split(merchant: Merchant) -> None:
        """Gives the site a known pseudonym key, so that every demo holds out the same shoppers.

        A real site makes a secret one by itself at its first ingest.
        """
        key = hashlib.sha256(f"hansa demo key of {merchant.name}".encode()).digest()
        write_atomically(Site(merchant.site).pseudonym_key, key, mode=0o600)

    def _site(self, merchant: Merchant, *words: str) -> str:
        return self._processes.run("hansa-client", *words, "--site", str(merchant.site)).stdout

    def _all_online(self) -> bool:
        found = self._processes.json(*self._server("merchants"))
        return sum(one["online"] for one in found) == len(self.merchants)

    def run(self, plan: Path) -> dict[str, Any]:
        """Launches a run and shows its rounds until it has ended.

        Raises:
            StepError: it failed.
        """
        launched = self._processes.json(*self._server("run", "start", str(plan), "--no-wait"))
        until = time.monotonic() + _RUN_S
        with show.step(f"run {launched['run_id']}: rounds, aggregate, compress, sign") as bar:
            while (run := self._processes.json(*self._server("run", "show", launched["run_id"])))[
                "state"
            ] not in _FINISHED:
                bar.set(run["rounds_done"], run["rounds_planned"])
                if time.monotonic() > until:
                    raise StepError(
                        f"the run did not end within {_RUN_S:.0f} s: "
                        f"{run['state']} {run['sentence']}"
                    )
                time.sleep(0.5)
        if run["state"] != "completed":
            raise StepError(f"the run {run['state']}: {run['sentence']}")
        return dict(run)

    def wait_for_release(self, version: int) -> list[str]:
        """Waits until every site has verified and serves the release; returns their names."""
        with show.step(
            f"sites fetch, verify, index and serve release {version}", len(self.merchants)
        ) as bar:

            def served() -> bool:
                found = self._processes.json(*self._server("merchants"))
                serving = [one for one in found if one["serving_version"] == version]
                bar.set(len(serving), len(self.merchants))
                return len(serving) == len(self.merchants)

            self._processes.wait_until(
                f"release {version} on every site", served, timeout_s=_START_S
            )
        return [merchant.name for merchant in self.merchants]

    def ask(self, merchant: Merchant, *words: str) -> dict[str, Any]:
        """One question to a site's service, by its own command."""
        return dict(self._processes.json("hansa-client", *words, "--site", str(merchant.site)))

    def pack(self, run_id: str) -> Path:
        """The operator writes the auditor's evidence."""
        path = self._out / f"{run_id}.pack"
        self._processes.run(*self._server("pack", run_id, "--out", str(path)))
        return path

    def budget(self, merchant: Merchant) -> dict[str, Any]:
        """What the merchant's ledger says."""
        return dict(self._processes.json("hansa-client", "budget", "--site", str(merchant.site)))


def fresh_folder(out: Path) -> Path:
    """Empties the demo's folder of an earlier run."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return out


def python_script(processes: Processes, script: Path, *words: str) -> None:
    """Runs one of the demo's own scripts in a process of its own, which frees its memory."""
    processes.run(Path(sys.executable).name, str(script), *words)


Ask = Callable[[Merchant], dict[str, Any]]
