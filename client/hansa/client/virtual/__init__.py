"""Virtual merchants for simulations: their shops, and the app that runs on them.

Nothing of a real site is opened here: no ledger, no identity, no ingested data set.
"""

from hansa.client.virtual.app import app
from hansa.client.virtual.market import prepare

__all__ = ["app", "prepare"]
