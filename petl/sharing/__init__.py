"""Puts a delta and its model card into a repository of the Hugging Face hub, in one commit."""
