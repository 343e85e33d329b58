"""Differential privacy: what is released, what it costs, and the book it is written in."""
