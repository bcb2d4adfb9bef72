"""Commands and files from strangers: ``--trust-remote``, and recipes that would build a giant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm

import petl
from tests.support.commands import call, refused
from tests.support.delta_files import args, base, edit
from tests.support.small_delta import NAME, small

COMMANDS = {
    "eval": ("eval", "DELTA", "FOLDER"),
    "predict": ("predict", "DELTA", "FOLDER/a.png"),
    "merge": ("merge", "DELTA", "FOLDER/merged.safetensors"),
    "correct": ("correct", "DELTA", "--undo", "--out", "FOLDER/c.safetensors"),
    "combine": ("combine", "DELTA", "DELTA", "--out", "FOLDER/c.safetensors"),
    "combine of a weights file": (
        "combine",
        "DELTA",
        "--out",
        "FOLDER/c.safetensors",
        "--model",
        ":FOLDER/weights.pth",
    ),
    "extend": ("extend", "DELTA", "FOLDER", "--out", "FOLDER/e.safetensors"),
    "to-peft": ("to-peft", "DELTA", "FOLDER/peft"),
    "export": ("export", "DELTA", "FOLDER/net.pt2"),
    "merge of a weights file": ("merge", "DELTA", "FOLDER/merged.safetensors", "--model", ":FOLDER/weights.pth"),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_commands_ask_nobody_outside_timm_unless_told(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    path = edit(petl.save(small(), tmp_path / "d.safetensors"), base(name="hf-hub:owner/name"))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    asked: list[Any] = []

    def create(name: str, *rest: Any, **options: Any) -> Any:
        asked.append(name)
        raise RuntimeError("nobody there")

    words = [word.replace("DELTA", str(path)).replace("FOLDER", str(tmp_path)) for word in COMMANDS[what]]
    (tmp_path / "weights.pth").write_bytes(b"x")
    monkeypatch.setattr(timm, "create_model", create)
    if what not in ("eval",):  # which looks at its folder first
        assert "--trust-remote" in refused(*words) and not asked
    call(*words, "--trust-remote")
    assert {*asked} <= {"hf-hub:owner/name"} and (asked or what == "eval")


def test_a_backbone_by_name_gets_no_giant_arguments_of_the_file(tmp_path: Path) -> None:
    path = edit(petl.save(small(), tmp_path / "d.safetensors"), args(channels=[2**20] * 4))
    said = refused("merge", path, tmp_path / "m.safetensors", "--model", NAME)
    assert "out of proportion" in said or "can't build" in said
