"""How people get in and what they then are: signing in, one-time codes, emergencies; knows nothing of HTTP."""
