"""Benchmarks: each part prints JSON; see docs/benchmarks.md."""
