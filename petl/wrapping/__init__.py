"""Applies methods to a model, all or nothing, keeps a record of the changes, notices what other code does to the model, and
restores the model bit for bit.
"""
