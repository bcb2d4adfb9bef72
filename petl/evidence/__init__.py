"""What may be said from few images: standard errors, intervals, paired comparisons and leave-one-out predictions.

Everything in petl that calls one model better than another asks this room. It takes tensors of scores and class numbers and knows
no model. All functions are deterministic: those that draw take a seed.
"""
