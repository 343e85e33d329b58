"""Opening a session: which version is spoken, and how far this machine's clock is off."""

import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from hansa.client.channel import CALL_TIMEOUT_S, utc_now
from hansa.client.version import SOFTWARE, SPEAKS
from hansa.core.clocks import skew_sentence
from hansa.core.wire_version import WireVersion
from hansa.protos.v1 import federation_pb2 as pb
from hansa.protos.v1 import federation_pb2_grpc as rpc

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Registration:
    """An open session, and what was learnt in opening it."""

    session: pb.Session
    wire: WireVersion
    """What both sides speak."""
    ahead: dt.timedelta
    """This machine's clock minus the server's, to within the call's duration; zero where the
    server is of version 1.0 and does not tell its time."""
    clock: Callable[[], dt.datetime]
    """This machine's."""

    def server_now(self) -> dt.datetime:
        """The server's clock, which decides on certificates."""
        return self.clock() - self.ahead


def register(channel: grpc.Channel, clock: Callable[[], dt.datetime] = utc_now) -> Registration:
    """Opens a session, and warns of a clock that is wrong.

    Raises:
        grpc.RpcError: the server refused or cannot be reached; see ``channel.translated``.
    """
    request = pb.RegisterRequest(
        protocol=SPEAKS.offered_major, protocol_minor=SPEAKS.minor, software=SOFTWARE
    )
    sent = clock()
    session: pb.Session = rpc.FederationStub(channel).Register(request, timeout=CALL_TIMEOUT_S)
    ahead = clock_ahead(session.server_time_unix_ms, sent=sent, received=clock())
    if (sentence := skew_sentence(ahead)) is not None:
        _log.warning("%s", sentence)
    wire = SPEAKS.with_peer(SPEAKS.offered_major, session.protocol_minor)
    return Registration(session=session, wire=wire, ahead=ahead, clock=clock)


def clock_ahead(
    server_time_unix_ms: int, *, sent: dt.datetime, received: dt.datetime
) -> dt.timedelta:
    """This machine's clock minus the server's; zero where the server did not tell its time.

    The server read its clock at some moment of the call: only what the whole call cannot explain
    counts as an error of the clock.
    """
    if not server_time_unix_ms:
        return dt.timedelta()
    theirs = dt.datetime.fromtimestamp(server_time_unix_ms / 1000, dt.UTC)
    if sent <= theirs <= received:
        return dt.timedelta()
    return sent - theirs if theirs < sent else received - theirs
