"""A hub on loopback, as for addresses, where somebody is logged in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import TOKEN, Hub, at_hub, serving


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        at_hub(monkeypatch, hub, tmp_path / "cache", token=TOKEN)
        yield hub
