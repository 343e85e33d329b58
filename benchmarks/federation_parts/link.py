"""A line between a client and the server that is as slow, and breaks as often, as a test says.

A TCP relay on the loopback with a token bucket in each direction; it sees only TLS.
"""

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self

_PIECE_BYTES = 1 << 16
_BURST_S = 0.02
_ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER of zero: closing sends a reset, as a line does that breaks."""


_Pair = tuple[socket.socket, socket.socket]


class _Bucket:
    """Lets bytes through at a rate; the calls come from one thread."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self._rate = bytes_per_s
        self._free = 0.0

    def take(self, count: int) -> None:
        """Waits until so many bytes may pass."""
        if self._rate is None:
            return
        now = time.monotonic()
        self._free = max(self._free, now - _BURST_S) + count / self._rate
        if self._free > now:
            time.sleep(self._free - now)


class Link:
    """Relays connections to a port of this machine.

    with Link(server_port, bytes_per_s=50 << 20) as link:
        ...  # connect to 127.0.0.1:link.port
    """

    def __init__(self, target_port: int, *, bytes_per_s: float | None = None) -> None:
        """``bytes_per_s`` is the rate of each direction of a connection; None is unlimited."""
        self._target_port = target_port
        self._rate = bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cuts = 0
        """So often a line with traffic on it was cut."""
        self._lock = threading.Lock()
        self._pairs: dict[_Pair, int] = {}
        """Each connection's two ends, and how many directions of it still run."""
        self._fuse: int | None = None

    def __enter__(self) -> Self:
        """Accepts connections from now on."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def cut(self) -> None:
        """Breaks every connection at once; new ones are accepted."""
        with self._lock:
            pairs = list(self._pairs)
            self._fuse = None
        for pair in pairs:
            for end in pair:
                _abort(end)

    def cut_after(self, count: int) -> None:
        """Breaks every connection once so many more bytes have passed, in both directions."""
        with self._lock:
            self._fuse = count

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._relay(client)

    def _relay(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port), timeout=10.0)
        except OSError:
            _abort(client)
            client.close()
            return
        server.settimeout(None)
        pair = (client, server)
        for end in pair:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._pairs[pair] = 2
        for source, sink in (pair, pair[::-1]):
            threading.Thread(target=self._pump, args=(source, sink, pair), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, pair: _Pair) -> None:
        bucket = _Bucket(self._rate)
        try:
            while data := source.recv(_PIECE_BYTES):
                bucket.take(len(data))
                sink.sendall(data)
                self._burn(len(data))
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in pair:
                _abort(end)
        self._close_if_last(pair)

    def _close_if_last(self, pair: _Pair) -> None:
        """The direction that ends last closes both ends."""
        with self._lock:
            self._pairs[pair] -= 1
            last = not self._pairs[pair]
            if last:
                del self._pairs[pair]
        if last:
            for end in pair:
                end.close()

    def _burn(self, count: int) -> None:
        with self._lock:
            if self._fuse is None:
                return
            self._fuse -= count
            blown = self._fuse <= 0
        if blown:
            self.cuts += 1
            self.cut()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Breaks everything and listens no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


def _abort(end: socket.socket) -> None:
    """Breaks a connection, and wakes the thread that waits on it, which then closes it."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        end.shutdown(socket.SHUT_RDWR)
