"""`fit` and `evaluate`: settings, objectives, the loop, optimizers, checkpoints, metrics, and the files of a training."""
