"""The version of the wire, MAJOR.MINOR, and what two sides of different versions speak.

Within one major version a newer minor only adds: messages get new fields, services new methods,
and whoever does not know them goes on as before. Both speak the lesser of their minors, and
one minor apart is tested. A new major breaks, and is refused with a sentence that names both.

Version 1.0 compared the major's text for equality and knew no minor: so the text on the wire stays
the major alone, and the minor travels in a field that 1.0 does not know and leaves at 0.
"""

from dataclasses import dataclass

from hansa.core.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True, order=True)
class WireVersion:
    """A version of the protocol between client and server."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def offered_major(self) -> str:
        """The text by which the major is offered."""
        return str(self.major)

    def with_peer(self, offered_major: str, minor: int) -> "WireVersion":
        """What this side speaks with the other one.

        Args:
            offered_major: as the other side wrote it.
            minor: the newest that the other side speaks.

        Raises:
            InvalidInputError: the majors differ; the sentence names both.
        """
        if offered_major != self.offered_major:
            raise InvalidInputError(
                f"this server speaks protocol version {self}, the client {offered_major[:16]!r}; "
                "update the older side"
            )
        return WireVersion(major=self.major, minor=min(self.minor, minor))


WIRE = WireVersion(major=1, minor=1)
"""What this software speaks."""
