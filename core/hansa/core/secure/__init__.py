"""Secure aggregation: the server learns a round's sum and no single update."""
