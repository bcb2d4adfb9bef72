"""Growing: a subclass that is made at run time is put onto a module, so that the layer's weight *is* the adapted weight, and is
taken off again. The only room that makes classes and exchanges what `layer.weight` returns.
"""
