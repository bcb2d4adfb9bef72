"""Which names are splits: what is tested on is never trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm

import petl
from petl.data.split_names import says_nothing, split_of, splits_among
from petl.errors import DataError
from tests.support.folders import PIPELINE, Make, content, read, two

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
