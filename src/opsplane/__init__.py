"""An operator control plane: repairs of multi-tenant Postgres data as safe, tracked, audited runbooks."""

__version__ = "0.1.0"
