"""Feature extraction: what the frozen part of a model computes is computed once and read from disk in later epochs, where it is
proven that training on it gives what training on images gives.
"""
