"""A short federation in one process that notes every connection, look-up and child of Python's.

``python -m tests.fakes.watched_federation FOLDER`` writes ``FOLDER/seen.json``. The hook is set
before anything else is imported, so that what Flower, PyTorch or Hugging Face try at import is seen
too. It begins as the commands do.
"""

import json
import os
import sys
from pathlib import Path

WATCHED = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "socket.sendmsg",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
)
seen: list[list[str]] = []


def note(event: str, arguments: tuple[object, ...]) -> None:
    if event in WATCHED:
        seen.append([event, *(repr(value)[:200] for value in arguments[:2])])


def main(folder: Path) -> None:
    from hansa.core.quiet import stay_offline

    stay_offline(os.environ)
    import hansa.client.start
    import hansa.server.cli
    import hansa.server.models
    import hansa.server.releasing  # noqa: F401 - the real ones, for what their imports do
    from hansa.client.application import FlowerApplication
    from tests.fakes.toy_federation import toy_flower_app, toy_plan
    from tests.integration.federation_harness import Federation

    with Federation(folder / "federation") as federation:
        federation.start_server()
        sites = [federation.join(name) for name in ("harbour", "market")]
        federation.start_clients(
            {site: FlowerApplication(site, toy_flower_app(), lambda *_: None) for site in sites}
        )
        run = federation.finish(toy_plan(rounds=2, quorum=2))
    report = {"run": run.state, "server": federation.address, "seen": seen}
    (folder / "seen.json").write_text(json.dumps(report))


if __name__ == "__main__":
    sys.addaudithook(note)
    main(Path(sys.argv[1]))
