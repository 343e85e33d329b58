"""Which version of the wire is spoken."""

from importlib.metadata import version

from hansa.core.wire_version import WIRE

SOFTWARE = f"hansa-server {version('hansa')}"
"""What this server calls itself."""


def agreed_minor(offered_major: str, minor: int) -> int:
    """The minor version that both sides speak; 0 with a client that names none.

    Raises:
        InvalidInputError: the client speaks another major version; the sentence names both.
    """
    return WIRE.with_peer(offered_major, minor).minor
