"""The relay of the benchmarks passes bytes on as they are, no faster than told, until it is cut."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from benchmarks.federation_parts.link import Link

TIMEOUT_S = 20.0


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends everything back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(peer,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def echo(peer: socket.socket) -> None:
    with peer:
        try:
            while data := peer.recv(65_536):
                peer.sendall(data)
        except OSError:
            return


def send_and_receive(port: int, data: bytes) -> bytes:
    """What comes back before the line ends."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as line:
        sender = threading.Thread(target=_send, args=(line, data), daemon=True)
        sender.start()
        try:
            while len(received) < len(data) and (piece := line.recv(65_536)):
                received += piece
        except ConnectionError:
            pass
        sender.join(TIMEOUT_S)
    return bytes(received)


def _send(line: socket.socket, data: bytes) -> None:
    try:
        line.sendall(data)
    except OSError:
        return


def test_bytes_pass_unchanged_in_both_directions(echo_port) -> None:
    data = bytes(range(256)) * 2_000
    with Link(echo_port) as link:
        assert send_and_receive(link.port, data) == data
    assert link.cuts == 0


def test_a_paced_line_is_never_faster_than_its_rate(echo_port) -> None:
    data = b"x" * 400_000
    with Link(echo_port, bytes_per_s=1_000_000) as link:
        began = time.monotonic()
        assert send_and_receive(link.port, data) == data
    assert time.monotonic() - began > 0.35


def test_a_fuse_breaks_the_line_in_the_middle_and_new_lines_are_whole(echo_port) -> None:
    data = b"x" * 2_000_000
    with Link(echo_port) as link:
        link.cut_after(700_000)
        assert len(send_and_receive(link.port, data)) < len(data)
        assert link.cuts == 1
        assert send_and_receive(link.port, data) == data
