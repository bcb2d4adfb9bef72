"""Which files of a folder are there, and which have stopped changing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from petl.serving import folder as folders
from petl.serving.folder import FolderWatch

HOUR = 3600.0


def settled(watch: FolderWatch) -> dict[str, bool]:
    return {name: file.settled for name, file in watch.look().items()}


def test_files_that_are_new_settle_and_older_ones_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pets.safetensors").write_bytes(b"1")
    assert settled(FolderWatch(tmp_path, HOUR)) == {"pets.safetensors": False}
    later = time.time() + 2 * HOUR
    monkeypatch.setattr(folders.time, "time", lambda: later)  # the file has been there for two hours
    assert settled(FolderWatch(tmp_path, HOUR)) == {"pets.safetensors": True}
    os.utime(tmp_path / "pets.safetensors", (0, 0))  # a copy with the time of the original
    assert settled(FolderWatch(tmp_path, HOUR)) == {"pets.safetensors": True}
    later = time.time() - 2 * HOUR  # a clock that is wrong
    watch = FolderWatch(tmp_path, 0.0)
    assert settled(watch) == {"pets.safetensors": True}


def test_a_file_that_changes_settles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(folders.time, "monotonic", lambda: now[0])
    file = tmp_path / "pets.safetensors"
    file.write_bytes(b"1")
    watch = FolderWatch(tmp_path, 10.0)
    assert settled(watch) == {"pets.safetensors": False}
    now[0] += 9
    file.write_bytes(b"12")
    assert settled(watch) == {"pets.safetensors": False}
    now[0] += 9
    assert settled(watch) == {"pets.safetensors": False}
    now[0] += 2
    assert settled(watch) == {"pets.safetensors": True}
    os.replace(file, tmp_path / "other.safetensors")
    assert [*watch.look()] == ["other.safetensors"]


def test_other_files_are_left_out(tmp_path: Path) -> None:
    for name in (".petl-x.safetensors", "notes.txt", "a.safetensors.part"):
        (tmp_path / name).touch()
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "notes.txt")
    (tmp_path / "nowhere.safetensors").symlink_to(tmp_path / "none")
    found = FolderWatch(tmp_path, 0.0).look()
    assert {name: file.name for name, file in found.items()} == {"link.safetensors": "link"}
    with pytest.raises(OSError):
        FolderWatch(tmp_path / "none", 0.0).look()
