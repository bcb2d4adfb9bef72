"""Replaces a thing of petl's in every file that has imported it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import petl


def replace(monkeypatch: pytest.MonkeyPatch, thing: Any, by: Any) -> None:
    """Each name in petl's files that means this very object means `by` until the test ends."""
    for name in petl.__all__:
        getattr(petl, name)  # imports its file: what is imported later would keep `by` for good
    files = [module for name, module in sys.modules.items() if name.partition(".")[0] == "petl"]
    names = [(file, name) for file in files for name, value in vars(file).items() if value is thing]
    assert names, f"nothing of petl's is {thing!r}"
    for file, name in names:
        monkeypatch.setattr(file, name, by)
