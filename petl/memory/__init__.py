"""How training steps save memory and time: one file for each idea behind `memory=` and `base_dtype=`. `fast_paths.py` says which
layer takes which idea, `modes.py` puts them on. `memory=` changes no number by more than rounding, and evaluation runs the plain
layers; `base_dtype=` rounds the frozen weights once, for evaluation too.
"""
