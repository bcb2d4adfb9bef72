"""Folders of classes."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.folders import Make, content
from tests.support.image_files import picture


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """folder(cat=3, dog=2) makes class folders with that many small PNGs."""
    counter = itertools.count()

    def make(where: str = "pets", **classes: int) -> Path:
        for name, count in classes.items():
            (tmp_path / where / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(next(counter)).save(tmp_path / where / name / f"{i}.png")
        return tmp_path / where

    return make


@pytest.fixture(params=["folder", "tar"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """make("a/1.png", ...) gives a folder with these files, or the same in a tar, one folder deeper, as tars mostly are."""

    def folder(*files: str) -> Path:
        root = tmp_path / "pets"
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content(name))
        return root

    def tar(*files: str) -> Path:
        with tarfile.open(tmp_path / "pets.tar", "w") as archive:
            archive.add(folder(*files), "pets")
        return tmp_path / "pets.tar"

    return folder if request.param == "folder" else tar
