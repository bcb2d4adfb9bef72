"""Deltas that come, are replaced, are broken and go: each is there whole or not at all, and the others go on."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import petl
from petl.serving.catalogue import Catalogue
from tests.support import served
from tests.support.zoo import images, make


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    served.write(tmp_path, "pets")
    found = Catalogue(tmp_path, make(served.BASE), "cpu", 0.0)
    found.update()
    return found


@torch.no_grad()
def test_files_come_are_replaced_and_go(catalogue: Catalogue, tmp_path: Path) -> None:
    assert [*catalogue.tasks] == ["pets"]
    old, x = catalogue.tasks["pets"], images(served.BASE)[:1]
    before = catalogue.base.predict(x, old.held)[0]
    new = served.write(tmp_path, "birds", seed=3, name="pets")  # another kind, of another size
    served.write(tmp_path, "scan")
    catalogue.update()
    assert [*catalogue.tasks] == ["pets", "scan"]
    assert catalogue.replaced == 1
    assert torch.equal(catalogue.base.predict(x, old.held)[0], before)  # a request that holds it sees it whole
    now = catalogue.tasks["pets"]
    assert torch.equal(catalogue.base.predict(x, now.held)[0], new(x)[0])
    assert (old.transform.config["input_size"], now.transform.config["input_size"]) == ((3, 64, 64), (3, 96, 96))
    again = catalogue.tasks["scan"]
    catalogue.update()
    assert catalogue.tasks["scan"] is again  # nothing is loaded twice
    (tmp_path / "pets.safetensors").unlink()
    catalogue.update()
    assert [*catalogue.tasks] == [*catalogue.base.names] == ["scan"]


def test_a_half_copied_file_is_never_served(catalogue: Catalogue, tmp_path: Path) -> None:
    whole, file = (tmp_path / "pets.safetensors").read_bytes(), tmp_path / "copy.safetensors"
    before = catalogue.tasks["pets"]
    for part in (0, 5, 3000, len(whole) - 1):
        file.write_bytes(whole[:part])
        (tmp_path / "pets.safetensors").write_bytes(whole[:part])  # over a file that is served, too
        catalogue.update()
        assert catalogue.tasks == {"pets": before}
        assert [*catalogue.refused] == ["copy.safetensors", "pets.safetensors"]
        assert "the earlier file of this name is served on" in catalogue.refused["pets.safetensors"]
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    catalogue.update()
    assert "checksum" in catalogue.refused["copy.safetensors"]
    assert str(tmp_path) not in str(catalogue.refused)
    file.write_bytes(whole)
    (tmp_path / "pets.safetensors").write_bytes(whole)
    catalogue.update()
    assert [*catalogue.tasks] == ["copy", "pets"]
    assert not catalogue.refused


def test_a_file_that_changes_while_it_is_read_is_read_again(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.write(tmp_path, "birds")
    add = petl.Tasks.add

    def and_write(self: Any, name: str, path: Path, **options: Any) -> None:
        add(self, name, path, **options)
        os.utime(path, (1, 1))

    monkeypatch.setattr(petl.Tasks, "add", and_write)
    catalogue.update()
    assert [*catalogue.tasks] == [*catalogue.base.names] == ["pets"]
    assert not catalogue.refused
    monkeypatch.undo()
    catalogue.update()
    assert [*catalogue.tasks] == ["birds", "pets"]


@pytest.mark.deep
def test_what_cant_be_served_is_refused_with_a_reason(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make(served.BASE)
    with torch.no_grad():
        other.conv1[0].weight[0] += 1  # type: ignore[index]  # a resnet's stem
    petl.save(petl.wrap(other, "probe", num_classes=2), tmp_path / "other.safetensors")
    petl.save(petl.wrap(make("vit"), "probe", num_classes=2), tmp_path / "vit.safetensors")
    broken = served.delta("pets")
    with torch.no_grad():
        broken.fc.bias[0] = torch.nan  # type: ignore[index, union-attr]  # its classifier
    petl.save(broken, tmp_path / "nan.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / os.fsdecode(b"\xff.safetensors")).touch()
    served.write(tmp_path, "birds")
    catalogue.update()
    words = {"nan": "NaN", "other": "digest", "pipe": "not a file", "vit": "another", "\udcff": "UTF-8"}
    assert [*catalogue.refused] == [f"{name}.safetensors" for name in words]
    for name, word in words.items():
        assert word in catalogue.refused[f"{name}.safetensors"]
    advised = "petl serve FOLDER --model NAME:FILE"
    assert advised in catalogue.refused["other.safetensors"]
    assert not re.search("check_base|trust_remote|petl.load", " ".join(catalogue.refused.values()))
    assert [*catalogue.tasks] == sorted(catalogue.base.names) == ["birds", "pets"]
    (tmp_path / "vit.safetensors").unlink()
    monkeypatch.setattr(petl.Tasks, "add", lambda *_: 1 / 0)  # a fault of ours
    served.write(tmp_path, "scan")
    catalogue.update()
    assert catalogue.refused["scan.safetensors"] == "it can't be loaded (ZeroDivisionError); the server's log says more"
    assert "vit.safetensors" not in catalogue.refused


def test_a_folder_that_cant_be_read_changes_nothing(catalogue: Catalogue, tmp_path: Path) -> None:
    tmp_path.rename(tmp_path.with_name("away"))
    catalogue.update()
    assert [*catalogue.tasks] == ["pets"]
    tmp_path.with_name("away").rename(tmp_path)
    catalogue.update()
    assert [*catalogue.tasks] == ["pets"]
