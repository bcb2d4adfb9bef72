"""Many deltas on one backbone: each task is a model of its own whose frozen tensors and unchanged modules are the backbone's, and
batches in which each row has its own task.
"""
