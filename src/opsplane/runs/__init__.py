"""Operation runs and their items: rows, states, and the engine that carries a run from queued to completed."""
