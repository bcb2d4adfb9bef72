"""The `petl` command, run in this process."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from petl.cli.app import app


def call(*words: Any) -> Any:
    """What the command did: exit_code, stdout, stderr."""
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words: Any) -> str:
    """The one line that the user sees; nothing else may be shown."""
    done = call(*words)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("petl: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr
