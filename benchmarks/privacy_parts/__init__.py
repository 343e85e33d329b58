"""One script a claim about privacy; ``benchmarks/privacy.py`` runs them all."""
