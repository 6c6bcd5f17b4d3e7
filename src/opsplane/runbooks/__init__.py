"""Runbooks: what can be repaired, and the one service through which every door starts it."""
