"""Kind to the database: runs slow down or wait while it has trouble."""
