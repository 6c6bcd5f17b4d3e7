"""Workspaces, tenants, and which of them a runbook may touch."""
