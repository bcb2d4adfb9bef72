"""Feature extraction: the frozen part of a model runs once per image, and later epochs read its outputs from disk.

That is done only where training on features is shown to give what training on images gives; `reasons.py` lists why it may not be.

`petl.features` returns what the classifier takes of each image, for everything that is arithmetic on features.
"""
