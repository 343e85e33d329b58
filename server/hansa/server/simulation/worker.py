"""A worker process: loads one app, then answers messages until the line is cut.

Started by ``hansa.server.simulation.workers``, whose docstring says what is spoken on the line.
"""

import json
import sys
from multiprocessing.connection import Connection
from typing import Any

from flwr.app import Error, Metadata, RecordDict

from hansa.core.content import Content
from hansa.core.errors import HansaError
from hansa.core.quiet import configure_logging
from hansa.server.rounds.flower import OPERATOR_NODE_ID, adopt_identity, make_reply, to_records
from hansa.server.simulation.app import AppRunner, AppSpec, Job, Outcome, VirtualNode
from hansa.server.simulation.workers import decode_state, encode_state


def work(line: Connection) -> None:
    """Answers until the other side hangs up."""
    adopt_identity()
    try:
        runner = AppRunner.load(AppSpec.model_validate_json(line.recv_bytes()))
    except HansaError as error:
        line.send_bytes(str(error).encode())
        return
    line.send_bytes(b"")
    content = RecordDict()
    while True:
        header = json.loads(line.recv_bytes())
        if header["content"]:
            content = to_records(Content.from_bytes(line.recv_bytes()))
        state = decode_state(line.recv_bytes())
        job = Job(
            node=VirtualNode(**header["node"]), message=make_reply(content, _metadata(header))
        )
        _send(line, runner(job, state))


def _send(line: Connection, outcome: Outcome) -> None:
    if isinstance(outcome.answer, Error):
        error = {"code": outcome.answer.code, "reason": outcome.answer.reason}
        frames = [json.dumps(error).encode(), b"", b""]
    else:
        frames = [b"null", outcome.answer, encode_state(outcome.state)]
    for frame in frames:
        line.send_bytes(frame)


def _metadata(header: dict[str, Any]) -> Metadata:
    return Metadata(
        run_id=1,
        message_id=header["message_id"],
        src_node_id=OPERATOR_NODE_ID,
        dst_node_id=header["node"]["node_id"],
        reply_to_message_id="",
        group_id=header["group_id"],
        created_at=header["created_at"],
        ttl=header["ttl"],
        message_type=header["message_type"],
    )


def main() -> None:
    """Runs on the file descriptor that is the only argument."""
    configure_logging(verbose=False)
    try:
        work(Connection(int(sys.argv[1])))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return


if __name__ == "__main__":
    main()
