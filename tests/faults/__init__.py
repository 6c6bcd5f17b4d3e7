"""Faults on purpose: what must hold when processes die, servers vanish and answers are lost."""
