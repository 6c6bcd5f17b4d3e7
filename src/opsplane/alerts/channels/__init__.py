"""Ways out of the company, one module each; all of them refuse what they must not reach, and none follows redirects."""
