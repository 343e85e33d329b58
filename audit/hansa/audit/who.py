"""Which releases hold what a merchant has contributed, from when to when.

The server answers a merchant that leaves by the same rule, from the same facts.
"""

from hansa.core.transparency.holdings import Holding, holdings

__all__ = ["Holding", "holdings"]
