"""The same backfill by orchestrators that others have written, each in an environment of its own, without opsplane.

What they lack is written here as their users would: a row for the run, one for each tenant, a cursor with each chunk.
"""
