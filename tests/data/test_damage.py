"""Files that can't be read are found, counted, named and skipped: in folders, subsets and loaders, with and without workers."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset

import petl
from petl.data.bad_files import LEFT_OUT, left_out
from petl.data.damage import why_unreadable
from petl.data.datasets import Images
from petl.data.sampling import Shuffle
from petl.errors import DataError

PLAIN = {"input_size": (3, 32, 32), "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
FORMATS = ("jpg", "png", "gif", "webp", "bmp", "tif", "ppm", "npy")


def encoded(kind: str, seed: int = 0) -> bytes:
    """A picture of noise as a file of this kind."""
    array = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    if kind == "npy":
        np.save(out, array)
    else:
        Image.fromarray(array).save(out, format={"jpg": "JPEG", "tif": "TIFF", "ppm": "PPM"}.get(kind, kind.upper()))
    return out.getvalue()


def middle(data: bytes) -> bytes:
    """The same file with damage in its middle that its beginning, its end and its size don't show."""
    half = len(data) // 2
    return data[:half] + bytes(200) + data[half + 200 :]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of six JPEGs each."""
    for number in range(12):
        place = tmp_path / "pets" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02}.jpg").write_bytes(encoded("jpg", number))
    return tmp_path / "pets"


def spoil(path: Path, how: Callable[[bytes], bytes] = lambda data: data[: len(data) // 2]) -> Path:
    path.write_bytes(how(path.read_bytes()))
    return path


def hidden_damage(path: Path) -> Path:
    """A PNG under the same name whose pixels can't be unpacked, although beginning, end and size are right."""
    path.write_bytes(middle(encoded("png")))
    assert why_unreadable(path) == ""
    return path


def model(classes: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    made = petl.wrap(timm.create_model("test_resnet"), "bn", num_classes=classes)
    petl.record(made).pipeline = petl.data.pipeline(made, size=32)
    return made


# ------------------------------------------------------------------------------------------------ one file


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_files_pass_and_truncated_ones_do_not(tmp_path: Path, kind: str) -> None:
    data = encoded(kind)
    for cut in (0, 1, 20, len(data) // 2, len(data) - 40):
        (tmp_path / f"a.{kind}").write_bytes(data[:cut])
        assert why_unreadable(tmp_path / f"a.{kind}"), f"{cut} of {len(data)} bytes"
    (tmp_path / f"a.{kind}").write_bytes(data)
    assert why_unreadable(tmp_path / f"a.{kind}") == ""


def test_odd_ends_are_read_before_they_are_called_bad(tmp_path: Path) -> None:
    """Phones append whole films to JPEGs, and PIL reads those."""
    (tmp_path / "a.jpg").write_bytes(encoded("jpg") + b"appended by a phone" * 100)
    assert why_unreadable(tmp_path / "a.jpg") == ""


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>", b"\xff", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_other_content_is_named_by_its_beginning(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg: no image that petl can read: it begins with") as error:
        petl.data.image(tmp_path / "a.jpg", PLAIN)
    assert "npy" not in str(error.value) and "bands" not in str(error.value)


@pytest.mark.parametrize("shape", [(0, 8, 3), (8, 0, 3), (0,), (8, 8, 0)])
def test_arrays_without_pixels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match=r"a\.npy: it has no pixels: its shape is \["):
        petl.data.image(tmp_path / "a.npy", PLAIN)


# ------------------------------------------------------------------------------------------------ sift


def test_sift_names_what_it_leaves_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = spoil(folder / "cat" / "02.jpg")
    (folder / "dog" / "99.npy").write_bytes(b"")
    whole = petl.data.dataset(folder, PLAIN)
    kept, found = petl.data.sift(whole)
    assert (len(whole), len(kept), type(kept)) == (13, 11, Images)
    assert found[str(bad)].startswith("it can't be read: ")
    assert "2 of 13 images can't be read and are left out" in caplog.text
    assert "02.jpg: it can't be read" in caplog.text and "99.npy: the file is empty" in caplog.text
    assert petl.data.sift(kept) == (kept, {})


def test_names_steer_no_terminal(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "cat" / "a\x1b[2J.jpg").write_bytes(b"")
    petl.data.sift(petl.data.dataset(folder, PLAIN))
    assert "a\\x1b[2J.jpg: the file is empty" in caplog.text
    assert "\x1b" not in caplog.text


def test_sift_looks_into_subsets_and_concatenations(folder: Path) -> None:
    spoil(folder / "cat" / "02.jpg")
    whole = petl.data.dataset(folder, PLAIN)
    nested = ConcatDataset([Subset(Subset(whole, range(6)), [1, 2, 3]), Subset(whole, [7, 8])])
    kept, found = petl.data.sift(nested)
    assert len(kept) == 4
    assert [Path(name).name for name in found] == ["02.jpg"]
    assert [target for _, target in kept] == [0, 0, 1, 1]


def test_strict_reads_all_of_every_file(folder: Path) -> None:
    hidden_damage(folder / "cat" / "02.jpg")
    whole = petl.data.dataset(folder, PLAIN)
    assert petl.data.sift(whole) == (whole, {})
    with pytest.raises(DataError, match=r"1 of 12 images can't be read: in .*cat: 02\.jpg \(it can't be read"):
        petl.data.sift(whole, strict=True)
    with pytest.raises(DataError, match=r"1 of 12 images can't be read"):
        petl.fit(model(), folder, epochs=1, lr=1e-3, strict=True, progress=False)


def test_nothing_left_is_an_error(folder: Path) -> None:
    for path in folder.glob("cat/*.jpg"):
        spoil(path)
    whole = petl.data.dataset(folder, PLAIN)
    assert len(petl.data.sift(whole)[0]) == 6
    with pytest.raises(DataError, match="no image of class cat can be read"):
        petl.data.sift(whole, training=True)
    for path in folder.glob("dog/*.jpg"):
        spoil(path)
    with pytest.raises(DataError, match="none of the 12 images can be read"):
        petl.data.sift(whole)


# ------------------------------------------------------------------------------------------------ loaders


@pytest.mark.parametrize("workers", [0, 1])
def test_other_batches_mark_what_shows_late(folder: Path, workers: int) -> None:
    hidden_damage(folder / "cat" / "02.jpg")
    whole = petl.data.dataset(folder, PLAIN)
    images, targets = next(iter(petl.data.loader(whole, batch_size=12, workers=workers)))
    assert targets.tolist() == [0, LEFT_OUT, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert not images[1].any() and images[0].any()
    assert [Path(name).name for name in whole.unreadable] == ["02.jpg"]


def test_training_takes_another_image_of_the_same_subset(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Never one of the rest, which may be the validation images."""
    hidden_damage(folder / "cat" / "02.jpg")
    whole = petl.data.dataset(folder, PLAIN, training=True, augment=False)
    fold = Subset(whole, [0, 1, 6])  # image 1 is damaged, image 2 belongs to another fold
    loader = petl.data.loader(fold, batch_size=3, training=True)
    assert isinstance(loader.sampler, Shuffle)
    for _ in range(2):
        images, targets = next(iter(loader))
        assert sorted(targets.tolist()) == [0, 1, 1]
        assert all(any(torch.equal(image, fold[i][0]) for i in (0, 2)) for image in images)
    assert caplog.text.count("02.jpg") == 1  # said once


def test_a_loader_of_ones_own_is_given_back_as_it_was(folder: Path) -> None:
    hidden_damage(folder / "cat" / "02.jpg")
    whole = petl.data.dataset(folder, PLAIN)
    metrics = petl.evaluate(model(), DataLoader(whole, batch_size=5), progress=False)
    assert sum(map(sum, metrics.confusion)) == 11
    with pytest.raises(DataError, match=r"02\.jpg: it can't be read"):
        whole[1]


class Lazy:
    """A reader that opens pictures and lets others read them, as Hugging Face's does; it has no files to look at."""

    targets = (0, 1, 0, 1)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Any, int]:
        data = encoded("png", index)
        return Image.open(io.BytesIO(middle(data) if index == 2 else data)), index % 2


def test_pictures_that_a_reader_has_only_opened() -> None:
    whole = Images(Lazy(), PLAIN)
    assert next(iter(petl.data.loader(whole, batch_size=4)))[1].tolist() == [0, 1, LEFT_OUT, 1]
    assert whole.unreadable == ["image 2"]
    with pytest.raises(DataError, match=r"1 of 4 images can't be read: image 2 \(it can't be read: "):
        petl.data.sift(whole, strict=True)


# ------------------------------------------------------------------------------------------------ fit and evaluate


@pytest.mark.sweep(3)
@pytest.mark.parametrize("how", [spoil, hidden_damage])
@pytest.mark.parametrize("kind", ["folder", "dataset", "subset", "loader"])
def test_no_epoch_is_lost(folder: Path, how: Any, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """One bad file among those to train on, one among those to measure on."""
    how(folder / "cat" / "02.jpg"), how(folder / "dog" / "03.jpg")
    net = model()
    pipeline = petl.data.pipeline(net)
    whole = petl.data.dataset(folder, pipeline, training=True)
    sets: dict[str, Any] = {
        "folder": (folder, folder),
        "dataset": (whole, petl.data.dataset(folder, pipeline)),
        "subset": (Subset(whole, range(12)), Subset(petl.data.dataset(folder, pipeline), range(12))),
        "loader": (DataLoader(whole, 4), DataLoader(petl.data.dataset(folder, pipeline), 5)),
    }
    train, val = sets[kind]
    history = petl.fit(net, train, val, epochs=1, lr=1e-3, batch_size=4, progress=False)
    assert len(history) == 1
    metrics = petl.evaluate(net, val, progress=False)
    assert sum(map(sum, metrics.confusion)) == 10
    assert np.isfinite(metrics.loss)
    assert "02.jpg" in caplog.text and "03.jpg" in caplog.text
    assert all(record.levelno == logging.WARNING for record in caplog.records if "02.jpg" in record.getMessage())


def test_features_leave_them_out_too(folder: Path) -> None:
    hidden_damage(folder / "cat" / "02.jpg")
    torch.manual_seed(0)
    net = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=2)
    petl.record(net).pipeline = petl.data.pipeline(net, size=32)
    history = petl.fit(net, folder, folder, epochs=2, lr=1e-3, batch_size=4, progress=False)
    assert "features" in history.features
    assert len(history) == 2


def test_when_no_image_fits_the_first_one_says_so(folder: Path) -> None:
    net = petl.wrap(timm.create_model("test_resnet", num_classes=2), "input", in_chans=4)
    with pytest.raises(DataError, match=r"00\.jpg: the image has 3 channels, the model takes 4 channels"):
        petl.evaluate(net, folder, progress=False)


class Aged(Images):
    """The same pictures with a number, or with several, in place of their class."""

    def __init__(self, columns: int) -> None:
        super().__init__(Lazy(), PLAIN)
        self.columns = columns

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = super().__getitem__(index)
        return image, torch.full((self.columns,), label + 0.5) if self.columns else label + 0.5


@pytest.mark.parametrize("columns", [0, 2])
def test_a_picture_whose_number_is_not_a_class_has_none_if_it_cannot_be_read(columns: int) -> None:
    targets = next(iter(petl.data.loader(Aged(columns), batch_size=4)))[1]
    assert targets.isnan().reshape(4, -1).all(1).tolist() == [False, False, True, False]


def test_the_target_of_an_image_that_cannot_be_read_is_of_the_kind_of_the_others() -> None:
    assert left_out(2) == left_out(np.int64(2)) == left_out(torch.tensor(2)) == LEFT_OUT
    for like in (0.5, np.float32(0.5), torch.tensor(0.5), torch.ones(3), torch.tensor([0, 1]), np.ones(2), [0, 1]):
        found = torch.as_tensor(left_out(like))
        assert found.isnan().all() and found.shape == torch.as_tensor(like).shape
