"""What a delta file may hold, judged by values alone: tensors, texts, options and arguments. It knows no model. Whoever writes a
file asks before, and whoever reads one asks before it believes.
"""
