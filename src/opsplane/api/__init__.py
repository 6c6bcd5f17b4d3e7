"""The HTTP doors: they translate, and know nothing that the service does not."""
