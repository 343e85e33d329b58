"""The parts of ``benchmarks/federation.py``: one module a claim, each runnable alone."""
