"""The command line: translates arguments into service calls, and refusals into one line and an exit code."""
