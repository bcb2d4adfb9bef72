"""`fit` and `evaluate`: settings, the loop, optimizers, checkpoints, metrics, and what a run leaves beside its delta."""
