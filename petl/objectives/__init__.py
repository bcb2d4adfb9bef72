"""What a training lowers and what is measured: one objective for each kind of target.

An objective checks the targets, has the loss, and says which metrics tell how good a model is. It knows no loop and no delta:
`petl.fit` and `petl.evaluate` (room `training`) ask it.
"""
