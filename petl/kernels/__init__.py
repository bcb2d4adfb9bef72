"""Autograd functions for single layers, with a backward that is cheap in memory and time, and what they share: buffers, memory
formats, autocast. They take tensors and know no model and no method. The plain operations of torch compute the same numbers; the
tests compare the two.
"""
