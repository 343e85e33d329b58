"""Local training under differential privacy: what happens between two models of a round."""
