"""A hub on loopback with huggingface_hub pointed at it, caches in a folder of the test's, and a small delta."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import Hub, at_hub, serving


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        at_hub(monkeypatch, hub, tmp_path / "cache")
        yield hub
