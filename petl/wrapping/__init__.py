"""Puts plans onto a model, all or nothing, keeps a record of what was done, notices what other code does to it, and takes it back
to the bit.
"""
