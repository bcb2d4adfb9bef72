"""What folders and tars mean: splits in every spelling, classes, what is no image; refused where it can be read in two ways."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

import petl
from petl.cli.app import app
from petl.data.split_names import says_nothing, split_of, splits_among
from petl.errors import DataError

PIPELINE = {
    "input_size": (3, 8, 8),
    "interpolation": "bilinear",
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "crop_pct": 1.0,
}
FORMATS = {
    ".jpg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".tga": "TGA",
    ".png": "PNG",
}
Make = Callable[..., Path]


def content(name: str) -> bytes:
    """An image in the format that the name's ending says, or text."""
    if (ending := os.path.splitext(name)[1].lower()) not in FORMATS:
        return b"no image"
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (sum(name.encode()) % 256, 90, 30)).save(out, format=FORMATS[ending])
    return out.getvalue()


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


def read(source: Path, **options: object) -> dict[str, str]:
    """{file: class} of what is taken; files without the folder that everything is in."""
    found = petl.data.dataset(source, PIPELINE, **options)  # type: ignore[arg-type]
    names = [found.filename(i).partition("pets/")[2] for i in range(len(found))]  # type: ignore[union-attr]
    return dict(zip(names, (found.classes[n] for n in found.targets), strict=True))  # type: ignore[union-attr]


def two(train: str, test: str) -> list[str]:
    return [f"{train}/cat/1.png", f"{train}/dog/2.png", f"{test}/cat/3.png", f"{test}/dog/4.png"]


# ------------------------------------------------------------------------------------------------ splits

SPELLINGS = [
    ("Training", "Testing"),
    ("Train", "Test"),
    ("TRAIN", "TEST"),
    ("train", "dev"),
    ("train_set", "test_set"),
    ("TrainSet", "ValSet"),
    ("train_images", "valid_images"),
    ("images-train", "images-test"),
    ("train2017", "val2017"),
    ("imagesTr", "imagesTs"),
    ("01_train", "02_validation"),
    ("Training Data", "Evaluation Data"),
    ("trainset", "holdout"),
    ("seg_train", "seg_test"),
    ("seg_train/seg_train", "seg_test/seg_test"),
    ("asl_alphabet_train", "asl_alphabet_test"),
    ("train_augmented", "test"),
    ("supervised_train", "Validation"),
    ("chest_xray/train", "chest_xray/test"),
    ("data/Training", "data/Testing"),
    ("archive/train", "archive/Validation"),
    ("train/images", "test/images"),
]


@pytest.mark.parametrize(("train", "other"), SPELLINGS)
def test_the_test_set_is_not_trained_on(make: Make, train: str, other: str) -> None:
    root = make(*two(train, other))
    assert read(root) == {f"{train}/cat/1.png": "cat", f"{train}/dog/2.png": "dog"}
    held = petl.data.held_out(root)
    assert held in ("val", "test")
    assert read(root, split=held) == {f"{other}/cat/3.png": "cat", f"{other}/dog/4.png": "dog"}
    assert sorted(petl.data.splits(root)) == sorted(["train", held])
    assert len(read(root, split=None)) == 4  # all together, as asked


@pytest.mark.parametrize(
    "name", ["train station", "test tube", "contest", "device", "invalid", "latest", "7", "toy_train"]
)
def test_names_that_are_no_splits(name: str) -> None:
    assert split_of(name) is None
    assert splits_among([name, "cat"]) == {}
    assert not says_nothing(name)


@pytest.mark.parametrize("asked", ["test", "Testing", "TEST", "test_set"])
def test_a_split_may_be_asked_for_in_any_spelling(make: Make, asked: str) -> None:
    assert len(read(make(*two("Training", "Testing")), split=asked)) == 2


def test_a_folder_of_ones_own_may_be_asked_for(make: Make) -> None:
    root = make(*two("fold1", "fold2"))
    assert read(root, split="fold2") == {"fold2/cat/3.png": "cat", "fold2/dog/4.png": "dog"}
    with pytest.raises(DataError, match=r"'cat' under several folders \(fold1/cat, fold2/cat\)"):
        read(root)


def test_timms_name_is_taken_first_and_the_other_one_said(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    assert list(read(make(*two("train", "training"), "extra/cat/9.png", "0.png"))) == [
        "train/cat/1.png",
        "train/dog/2.png",
    ]
    assert "training (2 images) is left out, 'train' is taken" in caplog.text
    assert "extra (1 images) is left out" in caplog.text
    assert "1 images right in" in caplog.text


def test_splits_that_may_be_the_same_are_not_chosen_between(make: Make) -> None:
    root = make(*two("Train1", "Train2"))
    for call in (read, petl.data.splits):
        with pytest.raises(DataError, match="several folders that may be split 'train': Train1, Train2"):
            call(root)


@pytest.mark.parametrize("other", ["test", "train", "val", "Validation"])
def test_a_class_may_be_called_like_a_split(make: Make, other: str) -> None:
    root = make("bus/1.png", "car/1.png", f"{other}/1.png")
    for options in ({}, {"split": None}):
        with pytest.raises(
            DataError, match=f"'{other}' looks like a split, but has no class folders .* beside bus, car"
        ):
            read(root, **options)
    assert sorted(read(root, split=".").values()) == sorted(["bus", "car", other])


def test_splits_below_classes_are_not_merged_unasked(make: Make) -> None:
    root = make("cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/test/4.png")
    with pytest.raises(DataError, match=r"look like splits, below the folders that would be classes"):
        read(root)
    assert [*read(root, split=None).values()] == ["cat", "cat", "dog", "dog"]


def test_a_split_without_class_folders(make: Make) -> None:
    root = make(*two("train", "val"), "test/1.png")
    assert len(read(root)) == 2
    with pytest.raises(DataError, match=r"test has images outside of class folders"):
        read(root, split="test")


def test_fit_and_evaluate_take_the_right_folders(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read in a training, and in a measurement, of one and the same folder."""
    seen: list[str] = []
    plain = petl.data.Images._read
    monkeypatch.setattr(petl.data.Images, "_read", lambda self, i: (seen.append(self.filename(i)), plain(self, i))[1])
    root = make(*two("Training", "Testing"))
    model = petl.wrap(timm.create_model("test_resnet"), "bn", num_classes=2)
    petl.record(model).pipeline = petl.data.pipeline(model, size=32)
    petl.fit(model, root, epochs=1, lr=1e-3, batch_size=2, progress=False)
    assert {name.split("/")[-3] for name in seen} == {"Training"}
    seen.clear()
    assert sum(map(sum, petl.evaluate(model, root, progress=False).confusion)) == 2
    assert {name.split("/")[-3] for name in seen} == {"Testing"}


def test_words_that_petl_does_not_know(make: Make) -> None:
    """They are refused, and their names work."""
    root = make(*two("Entrenamiento", "test"))
    with pytest.raises(DataError, match=r"no folder for split 'train' .*name one \(split='.*Entrenamiento'\)") as error:
        read(root)
    name = str(error.value).rpartition("name one (split='")[2].partition("'")[0]
    assert list(read(root, split=name)) == ["Entrenamiento/cat/1.png", "Entrenamiento/dog/2.png"]


def test_nothing_to_measure_on(make: Make) -> None:
    root = make("Training/cat/1.png", "Training/dog/2.png")
    with pytest.raises(DataError, match="has Training and no other split"):
        petl.data.held_out(root)
    assert petl.data.held_out(make("cat/1.png").parent / "none") is None


def test_torchvisions_folder_takes_no_split_for_a_class(tmp_path: Path) -> None:
    for name in two("Training", "Testing"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(content(name))
    found = petl.data.dataset("torch/image_folder", PIPELINE, root=tmp_path)
    assert (found.classes, len(found)) == (["cat", "dog"], 2)
    assert len(petl.data.dataset("torch/image_folder", PIPELINE, root=tmp_path, split="test")) == 2
    with pytest.raises(DataError, match="no folder for split 'val'; its splits are Training, Testing"):
        petl.data.dataset("torch/image_folder", PIPELINE, root=tmp_path, split="val")


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
