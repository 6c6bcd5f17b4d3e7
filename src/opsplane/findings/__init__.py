"""Findings of scanners, and what is done about them."""
