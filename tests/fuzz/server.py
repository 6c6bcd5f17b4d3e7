"""`opsplane serve` with cheap password hashes: with the real ones a campaign would do little else than hash."""

import functools
import sys

from opsplane import app, config, serving
from opsplane.auth.passwords import Passwords
from opsplane.runbooks import registry
from tests.web import CHEAP

if __name__ == "__main__":
    settings = config.load()
    registry.load(settings.runbooks_dir)
    vars(app)["Passwords"] = functools.partial(Passwords, CHEAP)
    serving.serve(settings, host="127.0.0.1", port=int(sys.argv[1]))
