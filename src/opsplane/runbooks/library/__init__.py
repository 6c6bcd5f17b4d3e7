"""The runbooks that ship: one file each."""
