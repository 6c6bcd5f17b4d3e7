"""Real PostgreSQL and Valkey from wheels under one folder, for `opsplane up`, `opsplane demo`, the CLI and tests.

Each server has a *room* (`HOME/postgres`, `HOME/valkey`) and is owned by a *sidecar*: `python -m opsplane.embedded`, a
process of its own session. Three flocks decide who lives, because the kernel drops them however a process dies:

- `users.lock`: shared by every user. The sidecar stops its server once it gets this lock exclusively, and keeps it
  until it is gone, so a newcomer can only wait for the end and then start anew.
- `sidecar.lock`: exclusive, handed to the sidecar already locked. Whoever can take it knows that no sidecar lives.
- `start.lock`: exclusive while a user starts or finds the sidecar, so that many starters make one sidecar.
"""

from opsplane.embedded.users import Endpoints, running

__all__ = ["Endpoints", "running"]
