"""Answers for images: which images are meant, the model's outputs in file order, what they mean, and the files they go to."""
