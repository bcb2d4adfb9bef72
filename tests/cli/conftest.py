"""A folder in which commands run."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.support.commands import bright_and_dark


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a test_resnet's weights in base.safetensors and images of two classes in pets."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), "base.safetensors")
    bright_and_dark(tmp_path / "pets", 5)
    return tmp_path
