"""Measurements against what an operator would write by hand: `python -m bench`, and docs/performance.md."""
