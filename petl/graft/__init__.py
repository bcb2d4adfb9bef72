"""Grafts: a module gets a subclass of its class, made at run time, so that the layer's weight *is* the adapted weight, and loses
it again. Only this room makes classes and changes what `layer.weight` returns, also where torch computes a weight
(pruning, weight norm) or FSDP has sharded it.
"""
