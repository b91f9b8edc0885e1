"""One search: its driver, candidates, finalists, journal and checkpoints."""
