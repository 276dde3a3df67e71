"""Benchmarks: what the pool costs, and how short it keeps a gap. See docs/benchmarks.md."""
