"""The record of what was done, by whom and why."""
