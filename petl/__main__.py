"""``python -m petl``: the command line."""

from petl.cli import app

app()
