"""Saves and loads deltas: one safetensors file per task, with trained tensors and the recipe that puts them onto a backbone."""
