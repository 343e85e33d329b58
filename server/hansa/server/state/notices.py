"""Short texts between the server processes at one PostgreSQL: LISTEN and NOTIFY in one thread.

Nothing durable travels here. While the connection is down, the receiver is told twice a second that
it may have missed something, and looks for itself.
"""

import contextlib
import logging
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import Engine

_log = logging.getLogger(__name__)

_CHANNEL = "hansa"
_NOTIFY = "SELECT pg_notify(%s, text) FROM unnest(%s::text[]) AS texts (text)"
_POLL_S = 0.5
_POLLS_PER_ATTEMPT = 4
_LONGEST_STOP_S = 15.0

Connection = psycopg.Connection[tuple[Any, ...]]


class Notices:
    """A relay for ``hansa.server.switchboard.Switchboard``; see its ``Relay``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._outgoing: dict[str, None] = {}
        self._over = threading.Event()
        self._bell: socket.socket | None = None
        self._receive: Callable[[str], None] = lambda _text: None
        self._thread: threading.Thread | None = None

    def start(self, receive: Callable[[str], None]) -> None:
        """Begins to listen; ``receive`` gets each text of another process, or "" after a gap."""
        self._receive = receive
        self._bell, rung = socket.socketpair()
        self._bell.setblocking(False)
        self._thread = threading.Thread(target=self._work, args=[rung], name="notices", daemon=True)
        self._thread.start()

    def send(self, text: str) -> None:
        """Hands a text to the other processes, once if it waits already; returns at once."""
        with self._lock:
            self._outgoing[text] = None
        self._ring()

    def stop(self) -> None:
        """Ends within seconds; what was handed over before is sent first if it can be."""
        self._over.set()
        self._ring()
        if self._thread is not None:
            self._thread.join(_LONGEST_STOP_S)

    def _ring(self) -> None:
        if self._bell is not None:
            with contextlib.suppress(OSError):  # full: it rings already; closed: nobody listens
                self._bell.send(b"!")

    def _work(self, rung: socket.socket) -> None:
        with rung:
            while not self._over.is_set():
                try:
                    with self._connect() as connection:
                        self._receive("")
                        self._exchange(connection, rung)
                        self._send_all(connection)
                except (psycopg.Error, OSError) as error:
                    _log.warning("other servers are not heard, looking for myself: %s", error)
                    self._look_for_myself()
        if self._bell is not None:
            self._bell.close()

    def _connect(self) -> Connection:
        positional, named = self._engine.dialect.create_connect_args(self._engine.url)
        connection = psycopg.connect(*positional, **named, autocommit=True)
        connection.execute(f"LISTEN {_CHANNEL}")
        return connection

    def _exchange(self, connection: Connection, rung: socket.socket) -> None:
        own = connection.info.backend_pid
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(rung, selectors.EVENT_READ, "bell")
            while not self._over.is_set():
                if any(key.data == "bell" for key, _ in selector.select()):
                    rung.recv(4096)
                    self._send_all(connection)
                for notice in connection.notifies(timeout=0):
                    if notice.pid != own:
                        self._receive(notice.payload)

    def _send_all(self, connection: Connection) -> None:
        with self._lock:
            texts, self._outgoing = self._outgoing, {}
        if not texts:
            return
        try:
            connection.execute(_NOTIFY, (_CHANNEL, list(texts)))
        except psycopg.Error:
            with self._lock:  # the next connection sends them; nobody else knows of the gap
                self._outgoing = texts | self._outgoing
            raise

    def _look_for_myself(self) -> None:
        for _ in range(_POLLS_PER_ATTEMPT):
            if self._over.wait(_POLL_S):
                return
            self._receive("")
