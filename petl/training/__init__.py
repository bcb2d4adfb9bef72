"""`fit` and `evaluate`: settings, objectives, the loop, optimizers, checkpoints, metrics, and the files that a
training writes."""
