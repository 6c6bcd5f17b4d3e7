"""Who is asking and what they may do; knows nothing of HTTP."""
