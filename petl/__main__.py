"""``python -m petl``: the command line."""

from petl.cli.app import app

app()
