"""Measures that guidance is made of: of features, classes, distances and calibration; tensors in, numbers out.

No model, no file and no training is known here. What is drawn takes a seed; each file names the source of its formula.
"""
