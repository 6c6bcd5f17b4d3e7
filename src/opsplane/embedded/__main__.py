"""`python -m opsplane.embedded`: the sidecar; only `opsplane.embedded.users` starts it."""

import sys

from opsplane.embedded import sidecar

if __name__ == "__main__":
    sys.exit(sidecar.main(sys.argv[1:]))
