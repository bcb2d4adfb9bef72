"""`petl serve`: a server over `petl.Tasks`, which answers images with the deltas of a folder while files come and go.

Public: `petl.serve` runs it, and `petl.serving.app` returns it as an application to mount, or for another server to run.
"""

from petl.serving.application import serving_app as app

__all__ = ["app"]
