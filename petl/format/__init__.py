"""Checks what a delta file may hold: tensors, texts, options and arguments. The checks see values alone and know no model; they
run before a file is written, and before anything that was read from a file is used.
"""
