"""Training on Lightning, which is imported only here; ``training.run.train`` is the door."""
