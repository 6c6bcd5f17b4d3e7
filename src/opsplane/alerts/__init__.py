"""Alerts: rules route the outbox to destinations, deliveries are tried until taken, and a bell rings in the app."""
