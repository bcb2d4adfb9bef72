"""The speed benchmark: bytes counted by hand, and a run from models to the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import benchmarks
from benchmarks.speed import resident
from tests.support.live_bytes import live_bytes

ROOT = Path(benchmarks.__file__).parent.parent


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.deep
def test_bytes_by_hand() -> None:
    model, x = layers(), torch.randn(3, 4)
    hidden, loss = 3 * 8 * 4, 4  # the ReLU's result is the second layer's input: one storage
    assert live_bytes(model, lambda: model(x).sum(), [x]) == hidden + loss
    assert all(p.grad is None for p in model.parameters())
    recomputed = live_bytes(model, lambda: checkpoint(model, x, use_reentrant=False).sum(), [x])  # type: ignore[union-attr]
    assert recomputed < hidden
    assert live_bytes(model.requires_grad_(False), lambda: model(x).sum(), [x]) == loss


def test_bytes_that_no_hook_for_saved_tensors_sees() -> None:
    model, x, kept = layers(), torch.randn(3, 4), []
    model[1].register_forward_hook(lambda _, args, out: kept.append(out * 2))  # type: ignore[operator]
    assert live_bytes(model, lambda: model(x).sum(), [x]) == 2 * 3 * 8 * 4 + 4


def test_the_peak_is_the_rise_over_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The highest size before and after the steps counts; what came before is forgotten first."""
    seen: list[str] = []
    sizes = iter([100, 175])
    monkeypatch.setattr(resident, "forget_peak", lambda: seen.append("forget"))
    monkeypatch.setattr(resident, "highest", lambda: seen.append("read") or next(sizes))
    assert resident.resident_peak(lambda: seen.append("step"), steps=2) == 75
    assert seen == ["forget", "read", "step", "step", "read"]


def test_the_highest_size_is_read_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "STATUS", tmp_path / "status")
    assert resident.highest() > 0  # without the kernel's mark
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    assert resident.highest() == 2048 * 1024


ALONE = """
from benchmarks.speed.resident import resident_peak
before = bytearray(b"x") * (256 << 20)
del before
print(resident_peak(lambda: bytearray(b"x") * (64 << 20)) >> 20)
"""


@pytest.mark.skipif(not resident.STATUS.exists(), reason="only Linux forgets the highest size")
def test_the_highest_size_of_a_process_that_does_nothing_else() -> None:
    """It has no threads and no torch, so its size is what it allocates itself: 64 MB, and the 256 MB before don't count.

    The bounds are wide: the kernel counts pages in batches, and a machine without memory may take pages away.
    """
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    assert 32 <= int(done.stdout) <= 128


def run(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", "--threads", "1", *words], cwd=ROOT, check=True, timeout=600
    )


@pytest.mark.deep
def test_from_models_to_the_page(tmp_path: Path) -> None:
    work = ["--models", "test_vit", "--batch", "2", "--size", "160", "--sides", "full", "peft", "petl*", "probe"]
    run(*work, "--repeats", "2", "--no-peak", "--out", str(tmp_path / "all"))
    result = json.loads((tmp_path / "all" / "test_vit-cpu.json").read_text())
    sides = result["sides"]
    assert {"full", "peft", "petl unfused", "probe"} < sides.keys()
    assert sides["probe"]["bytes"] < min(sides[name]["bytes"] for name in ("full", "peft", "petl unfused"))
    assert all(len(side["seconds"]) == 2 and min(side["seconds"]) > 0 for side in sides.values())
    assert {"base", "petl", "petl merged", "peft", "peft merged"} == result["inference"].keys()

    page = tmp_path / "speed.md"
    page.write_text(
        "before\n<!-- tables: python -m benchmarks.speed --report -->\nold\n<!-- end of tables -->\nafter\n"
    )
    run("--out", str(tmp_path / "all"), "--report", str(page))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| full | 371,240 |" in text and (tmp_path / "img" / "speed.svg").exists()
