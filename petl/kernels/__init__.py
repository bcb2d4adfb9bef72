"""Autograd functions for single layers, with a backward that is cheap in memory and time. They take tensors and know no model, no
module and no method. The plain operations of torch compute the same numbers; the tests compare the two.
"""
