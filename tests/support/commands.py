"""The `petl` command, run in this process, and images for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
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


def bright_and_dark(folder: Path, count: int, seed: int = 0) -> None:
    """`count` gray images in each of two class folders, which any model tells apart."""
    noise = np.random.default_rng(seed)
    for name, level in (("bright", 200), ("dark", 40)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = (level + noise.integers(0, 40, (32, 32))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
