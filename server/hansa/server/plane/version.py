"""Which version of the wire is spoken."""

from hansa.core.errors import InvalidInputError

PROTOCOL = "1"


def check_protocol(offered: str) -> None:
    """Refuses a client that speaks another version.

    Raises:
        InvalidInputError: the versions differ; the sentence names both.
    """
    if offered != PROTOCOL:
        raise InvalidInputError(
            f"this server speaks protocol version {PROTOCOL}, the client {offered[:16]!r}; "
            "update the older side"
        )
