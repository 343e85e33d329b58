"""What this client calls itself on the wire."""

from importlib.metadata import version

from hansa.core.wire_version import WIRE

SPEAKS = WIRE
"""Version of the wire that this client speaks; see ``hansa.core.wire_version``."""

SOFTWARE = f"hansa-client {version('hansa')}"
"""Shown in the operator's list of merchants."""
