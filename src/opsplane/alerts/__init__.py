"""What must reach somebody: events wait in the outbox, written with the change that caused them."""
