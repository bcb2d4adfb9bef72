"""Folders and tars: what their names mean, and which of their files are images."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

import petl
from petl.cli.app import app
from petl.errors import DataError
from tests.support.folders import FORMATS, PIPELINE, Make, content, read

# ------------------------------------------------------------------------------------------------ classes


def test_the_class_is_the_first_folder(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = make("benign/P01/1.png", "benign/P02/2.png", "malignant/P03/3.png", "malignant/4.png")
    assert read(root) == {
        "benign/P01/1.png": "benign",
        "benign/P02/2.png": "benign",
        "malignant/4.png": "malignant",
        "malignant/P03/3.png": "malignant",
    }
    assert "the classes are the 2 folders" in caplog.text and "not the 3 folders inside them" in caplog.text
    assert {*read(root, class_from="path").values()} == {"benign/P01", "benign/P02", "malignant", "malignant/P03"}
    assert {*read(root, class_from="last").values()} == {"P01", "P02", "P03", "malignant"}


@pytest.mark.parametrize(
    "files",
    [
        ("church/outdoor/1.png", "flat/outdoor/2.png"),
        ("cat/batch1/1.png", "dog/batch1/2.png"),
        ("a/x/1.png", "x/2.png"),
    ],
)
def test_one_name_under_several_folders_shows_both_readings(make: Make, files: tuple[str, ...]) -> None:
    root = make(*files)
    first, path = (
        sorted({f(name) for name in files}) for f in (lambda n: n.split("/")[0], lambda n: n.rpartition("/")[0])
    )
    with pytest.raises(DataError) as error:
        read(root)
    assert f"class_from='first' gives 2 ({', '.join(first)})" in str(error.value)
    assert f"class_from='path' gives 2 ({', '.join(path)})" in str(error.value)
    assert sorted(read(root, class_from="first").values()) == first
    assert sorted(read(root, class_from="path").values()) == path


def test_known_names_decide_between_readings(make: Make) -> None:
    root = make("church/outdoor/1.png", "flat/outdoor/2.png")
    assert [*read(root, classes=["flat", "hut", "church"]).values()] == ["church", "flat"]
    assert [*read(root, classes=["flat/outdoor", "church/outdoor"]).values()] == ["church/outdoor", "flat/outdoor"]
    with pytest.raises(DataError, match="expected one of 'first', 'path', 'last', or None"):
        read(root, class_from="leaf")


def test_order_is_the_same_in_every_process(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Names that differ in case only are alike for a natural order."""
    root = make("Cat/1.png", "cat/2.png", "dog/3.png")
    assert petl.data.dataset(root, PIPELINE).classes == ["Cat", "cat", "dog"]
    assert "these are 2 classes, although their names differ little: 'Cat', 'cat'" in caplog.text


def test_class_maps_and_endings(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = make("cat/1.png", "cat/2.jpg", "cow/1.png", "dog/1.png")
    found = petl.data.dataset(root, PIPELINE, class_map={"dog": 0, "cat": 1}, input_key=".png")
    assert (found.classes, found.targets.tolist()) == (["dog", "cat"], [1, 0])  # type: ignore[union-attr]
    assert "class_map doesn't name are left out: cow" in caplog.text
    with pytest.raises(DataError, match="no option 'class_mop'; near names: class_map"):
        petl.data.dataset(root, PIPELINE, class_mop={})


# ------------------------------------------------------------------------------------------------ what is no image


def test_hidden_and_system_files_are_counted(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    junk = ["cat/.ipynb_checkpoints/1.png", "@eaDir/1.png", "cat/@eaDir/1.png/SYNOPHOTO_THUMB.jpg", ".thumbnails/1.png"]
    junk += ["__MACOSX/cat/1.png", "cat/._1.png", "cat/Thumbs.db", "desktop.ini", ".DS_Store", "$RECYCLE.BIN/1.png"]
    junk += ["#recycle/1.png", "System Volume Information/1.png", "lost+found/1.png", ".git/1.png"]
    root = make("cat/1.png", "dog/2.png", "dog/readme.txt", "dog/3.svg", *junk)
    assert read(root) == {"cat/1.png": "cat", "dog/2.png": "dog"}
    assert f"left out 2 files of other kinds (1 .svg, 1 .txt) and {len(junk)} hidden or system files" in caplog.text
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_every_format_that_can_be_opened_is_taken(make: Make) -> None:
    files = [f"cat/1{ending}" for ending in FORMATS] + [f"dog/1{ending.upper()}" for ending in FORMATS]
    found = petl.data.dataset(make(*files), PIPELINE)
    assert len(found) == len(files)
    assert all(image.shape == (3, 8, 8) for image, _ in found)


def test_an_empty_class_folder_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content(name))
    (tmp_path / "eel").mkdir()
    (tmp_path / ".git").mkdir()
    assert petl.data.dataset(tmp_path, PIPELINE).classes == ["cat", "dog"]
    assert "no images in eel, so there is no such class" in caplog.text


@pytest.mark.parametrize(
    "files", [("cat/1.png", "cat/2.png", "dog/3.heic"), ("PetImages/Cat/1.png", "PetImages/Dog/2.png")]
)
def test_one_class_alone_is_nothing_to_train_on(make: Make, files: tuple[str, ...]) -> None:
    """The error says what was left out, or what lies deeper."""
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=2)
    with pytest.raises(
        DataError, match=r"all images to train on are of one class.*(left out 1 files|not the 2 folders inside)"
    ):
        petl.fit(model, make(*files), epochs=1, lr=1e-3, progress=False)


def test_links_in_a_circle_and_folders_that_cannot_be_listed(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content(name))
    (tmp_path / "cat" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "eel").symlink_to(tmp_path / "dog", target_is_directory=True)
    assert petl.data.dataset(tmp_path, PIPELINE).classes == ["cat", "dog", "eel"]


# ------------------------------------------------------------------------------------------------ tars


def test_tars_in_tars_links_and_compressed_ones(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        member = tarfile.TarInfo("./1.png")
        member.size = len(content("x.png"))
        archive.addfile(member, io.BytesIO(content("x.png")))
    (tmp_path / "a.png").write_bytes(content("a.png"))
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        member = tarfile.TarInfo("cat.tar")
        member.size = len(inner.getvalue())
        archive.addfile(member, io.BytesIO(inner.getvalue()))
        archive.add(tmp_path / "a.png", "dog/a.png")
        archive.add(tmp_path / "b.png", "dog/b.png")  # stored as a link to the first
    found = petl.data.dataset(tmp_path / "all.tar", PIPELINE)
    assert [found.filename(i) for i in range(3)] == ["cat/1.png", "dog/a.png", "dog/b.png"]  # type: ignore[union-attr]
    assert torch.equal(found[1][0], found[2][0]) and not torch.equal(found[0][0], found[1][0])
    with tarfile.open(tmp_path / "z.tar", "w:gz") as archive:
        archive.add(tmp_path / "a.png", "dog/a.png")
    with pytest.raises(DataError, match="a tar without compression"):
        petl.data.dataset(tmp_path / "z.tar", PIPELINE)


# ------------------------------------------------------------------------------------------------ the command line


def test_the_command_line_trains_on_training_and_measures_on_testing(tmp_path: Path) -> None:
    """30 images in Training, 10 in Testing."""
    for index in range(40):
        split, sort = ("Training", "Testing")[index % 4 == 3], ("glioma", "notumor")[index // 4 % 2]
        place = tmp_path / "mri" / split / sort
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), 60 if sort == "glioma" else 200).save(place / f"{index}.png")
    torch.manual_seed(0)
    weights = tmp_path / "base.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), weights)
    delta = tmp_path / "mri.safetensors"
    base = f"test_resnet:{weights}"
    command = [
        "train",
        tmp_path / "mri",
        "--model",
        base,
        "--method",
        "probe",
        "--out",
        delta,
        "--size",
        32,
        "--epochs",
        1,
    ]
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    assert petl.read(delta)["labels"] == ["glioma", "notumor"]
    found = petl.data.dataset(tmp_path / "mri", PIPELINE, training=True)
    assert len(found) == 30 and all("Training" in found.filename(i) for i in range(30))  # type: ignore[union-attr]
    done = CliRunner().invoke(
        app, [str(word) for word in ("eval", delta, tmp_path / "mri", "--model", base, "--split", "test", "--json")]
    )
    assert done.exit_code == 0, done.output
    confusion = json.loads(done.stdout)["confusion"]
    assert sum(map(sum, confusion)) == 10
