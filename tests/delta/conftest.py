"""A delta that the tests of files share."""

from __future__ import annotations

from pathlib import Path

import pytest

import petl
from tests.support.trained import trained


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small delta of the zoo's beit."""
    return petl.save(trained("beit", ["bias", petl.LoRA(rank=2)]), tmp_path / "delta.safetensors")
