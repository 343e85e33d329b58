"""Attacks the training code of this installation, under a plan, with shoppers that do not exist.

Everything is made from a public seed; no site is opened and no shopper's data are read.
"""

from hansa.client.empirical.audit import audit

__all__ = ["audit"]
