"""Rounds with virtual merchants: the plane's loop and strategies, without a plane."""

from hansa.server.simulation.app import AppSpec
from hansa.server.simulation.in_process import InProcessGrid

__all__ = ["AppSpec", "InProcessGrid"]
