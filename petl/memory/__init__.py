"""How training steps save memory and time: one file for each idea behind `memory=` and `base_dtype=`. Nothing here changes
a number by more than rounding, and evaluation never comes here.
"""
