"""The worker process: arq rings, drains repair, the sweeper watches."""
