"""Arithmetic on deltas: several become one (`petl.combine`), a whole checkpoint becomes one (`petl.extract`), and a classifier
in closed form learns more classes and images without forgetting any (`petl.extend`).

Each starts from changes of a base's own tensors and ends in an ordinary wrapped model, which saves, loads, merges and unwraps.
"""
