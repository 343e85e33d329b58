"""What this client calls itself on the wire."""

from importlib.metadata import version

PROTOCOL = "1"
"""Version of the wire that this client speaks."""

SOFTWARE = f"hansa-client {version('hansa')}"
"""Shown in the operator's list of merchants."""
