"""Figures, each with what it was measured against in the same run. See docs/benchmarks.md."""
