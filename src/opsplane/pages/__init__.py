"""Pages: thin shells around the JSON endpoints of the same addresses, readable without any script."""
