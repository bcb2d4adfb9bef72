"""Transforms of one's own: torchvision's v2, albumentations and functions, with the model's normalisation afterwards, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

import petl
from petl import data
from petl.data.own_transforms import OwnTransform
from petl.errors import DataError
from tests.support.data import plain
from tests.support.image_files import picture

NORMAL = {**plain(3), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "crop_pct": 0.875}
MEAN, STD = (torch.tensor(NORMAL[key]).reshape(3, 1, 1) for key in ("mean", "std"))


def as_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


KEEPS: dict[str, Callable[..., Any]] = {
    "PIL": lambda image: image,
    "uint8 array": as_array,
    "float array": lambda image: np.asarray(image) / 255,
    "float tensor": pixels,
    "uint8 tensor": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
    "tv_tensor": v2.ToImage(),
    "v2": v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
    "of tensors": lambda image: image.flip(-1).flip(-1),
    "of arrays": lambda image: image[:, ::-1][:, ::-1] if isinstance(image, np.ndarray) else image.none,
    "a batch of one": lambda image: pixels(image)[None],
}


@pytest.mark.parametrize("kind", KEEPS)
def test_the_models_normalisation_follows_once(folder: Callable[..., Path], kind: str) -> None:
    images = data.dataset(folder(cat=2), NORMAL, transform=KEEPS[kind])
    torch.testing.assert_close(images[0][0], (pixels(picture(0)) - MEAN) / STD)


def test_another_size_is_resized_and_cropped_as_at_evaluation(folder: Callable[..., Path]) -> None:
    root = folder(cat=1)
    twice = data.dataset(root, NORMAL, transform=lambda image: image.resize((16, 16)))[0][0]
    picture(0).resize((16, 16)).save(root / "cat" / "0.png")
    expected = data.dataset(root, NORMAL)[0][0]
    assert torch.equal(data.dataset(root, NORMAL, transform=lambda image: image)[0][0], expected)
    assert torch.equal(twice, expected)
    as_tensors = data.dataset(root, NORMAL, transform=pixels)[0][0]
    torch.testing.assert_close(as_tensors, expected, atol=0.02, rtol=0)  # PIL rounds to 8 bits


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])]), "leave out"),
        (lambda image: pixels(image) * 255, "divide values of 0..255"),
        (lambda image: {"image": image}, "returned dict with 'image'; expected a PIL image"),
        (lambda image: None, "returned NoneType; expected a PIL image"),
        (lambda image: pixels(image).permute(1, 2, 0), r"Tensor \[8, 8, 3\] of torch.float32 for 3 channels"),
        (lambda image: np.array(image).astype(np.int64), "int64; expected"),
        (lambda image: pixels(image) / 0, "NaN or infinite"),
        (lambda image: image.nothing_such, "takes none of these"),
        (lambda image: pixels(image)[:2], "for 3 channels"),
        (lambda image: image.convert("F"), "divide values of 0..255"),
        (lambda image: image.crop((0, 0, 0, 0)), "a PIL image of 0 x 0 pixels"),
        (42, "expected a function"),
    ],
)
def test_what_is_no_image_is_one_clear_error(folder: Callable[..., Path], transform: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        data.dataset(folder(cat=1), NORMAL, transform=transform)[0]


def test_a_normalisation_shows_on_a_gray_image_too(folder: Callable[..., Path]) -> None:
    """All of its values lie in 0..1 after the normalisation: black and white squares tell."""
    root = folder(cat=1)
    Image.new("RGB", (8, 8), (160, 160, 160)).save(root / "cat" / "0.png")
    with pytest.raises(DataError, match=r"values from -1 to 1; expected .* leave out its normalisation"):
        data.dataset(root, NORMAL, transform=lambda image: pixels(image) * 2 - 1)[0]


def test_a_failing_transform_is_no_damaged_file(folder: Callable[..., Path]) -> None:
    def fails(image: Image.Image) -> Image.Image:
        if np.asarray(image)[0, 0, 0] == np.asarray(picture(1))[0, 0, 0]:
            raise OSError("no such look-up table")
        return image

    images = data.dataset(folder(cat=2), NORMAL, training=True, transform=fails)
    assert images[0][0].shape == (3, 8, 8)
    with pytest.raises(DataError, match=r"1.png: transform fails fails on this image: OSError: no such look-up table"):
        images[1]


def test_deep_images_are_tensors_and_floats_have_any_range(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "1.npy", np.full((8, 8, 3), 7.0, np.float32))
    seen: list[Any] = []
    images = data.dataset(tmp_path, plain(3), transform=lambda image: seen.append(image) or image * 2)
    assert images[0][0].unique().tolist() == [14.0] and isinstance(seen[-1], Tensor)


def test_training_images_alone_have_it(folder: Callable[..., Path]) -> None:
    train = data.dataset(folder(cat=4, dog=4), NORMAL, training=True, transform=lambda image: Image.new("RGB", (8, 8)))
    kept, held = data.holdout(train)
    assert kept[0][0].amax() < 0 and held[0][0].amax() > 0
    assert train.random and not held.random  # type: ignore[union-attr]
    assert data.sift(train)[0][0][0].amax() < 0


def test_a_transform_takes_the_place_of_augment(folder: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="pass one of them"):
        data.dataset(folder(cat=2), NORMAL, training=True, transform=KEEPS["PIL"], augment={"hflip": 0.0})


def epoch(images: Any, number: int, workers: int = 0) -> Tensor:
    loader = data.loader(images, batch_size=3, training=True, workers=workers, seed=1)
    data.set_epoch(loader, number)
    return torch.cat([batch for batch, _ in loader])


def random_transforms() -> dict[str, Any]:
    made: dict[str, Any] = {
        "v2": v2.Compose([v2.RandomCrop(6), v2.Resize(8), v2.ColorJitter(0.5)]),
        "numpy": lambda image: np.roll(np.asarray(image), np.random.randint(8), 0),
    }
    try:
        import albumentations as A
    except ImportError:
        return made
    crop = A.RandomCrop(6, 6)
    made["albumentations"] = A.Compose([A.OneOf([crop, A.Rotate()], p=1), A.Resize(8, 8), A.RandomBrightnessContrast()])
    made["one of albumentations"] = A.RandomBrightnessContrast(p=1)
    made["albumentations, seeded"] = A.Compose([A.RandomBrightnessContrast(p=1), A.ToFloat()], seed=4)
    made["albumentations, a tensor"] = A.Compose([crop, A.pytorch.ToTensorV2()])
    return made


@pytest.mark.parametrize("kind", random_transforms())
def test_random_ones_follow_seed_epoch_and_image(folder: Callable[..., Path], kind: str) -> None:
    root = folder(cat=4)
    for name in range(4):
        picture(7, size=8).save(root / "cat" / f"{name}.png")  # the same picture four times
    images = data.dataset(root, NORMAL, training=True, transform=random_transforms()[kind])
    first, second = epoch(images, 0), epoch(images, 1)
    again = data.dataset(root, NORMAL, training=True, transform=random_transforms()[kind])
    assert torch.equal(epoch(again, 1), second) and torch.equal(epoch(again, 0), first)
    assert not torch.equal(first, second) and len({image.numpy().tobytes() for image in first}) > 1


def test_workers_change_nothing(folder: Callable[..., Path]) -> None:
    A = pytest.importorskip("albumentations")
    images = data.dataset(
        folder(cat=6), NORMAL, training=True, transform=A.Compose([A.RandomBrightnessContrast(p=1), A.GaussNoise(p=1)])
    )
    assert torch.equal(epoch(images, 2, workers=2), epoch(images, 2))


def test_albumentations_gets_gray_and_floats(tmp_path: Path) -> None:
    A = pytest.importorskip("albumentations")
    (tmp_path / "a").mkdir()
    picture(0, mode="L").save(tmp_path / "a" / "1.png")
    np.save(tmp_path / "a" / "2.npy", np.random.default_rng(0).random((8, 8), np.float32))
    images = data.dataset(tmp_path, plain(1), transform=A.Compose([A.HorizontalFlip(p=1)]))
    plainly = data.dataset(tmp_path, plain(1))
    assert all(torch.equal(images[i][0].flip(-1), plainly[i][0]) for i in range(2))
    bands = np.random.default_rng(0).random((5, 8, 8), np.float32)
    (
        np.save(tmp_path / "a" / "1.npy", bands),
        np.save(tmp_path / "a" / "2.npy", bands),
        (tmp_path / "a" / "1.png").unlink(),
    )
    assert torch.equal(
        data.dataset(tmp_path, plain(5), transform=A.HorizontalFlip(p=1))[0][0].flip(-1), torch.from_numpy(bands)
    )


def test_albumentations_normalise_is_refused(folder: Callable[..., Path]) -> None:
    A = pytest.importorskip("albumentations")
    with pytest.raises(DataError, match="transform Compose returned values .* leave out its normalisation"):
        data.dataset(folder(cat=1), NORMAL, transform=A.Compose([A.Normalize(), A.pytorch.ToTensorV2()]))[0]


def test_the_first_look_draws_no_random_numbers() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    OwnTransform(lambda image: image, 3)(picture(0))
    assert torch.equal(torch.get_rng_state(), state)


def wrapped() -> Any:
    torch.manual_seed(0)
    return petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=2)


def test_fit_transforms_training_images_and_evaluate_all(folder: Callable[..., Path]) -> None:
    root, sizes = folder(cat=3, dog=3), []

    def noted(image: Image.Image) -> Image.Image:
        sizes.append(image.size)
        return image

    folder("held", cat=1, dog=1)
    model = wrapped()
    history = petl.fit(model, root, root.parent / "held", epochs=1, lr=1e-3, transform=noted, views=0, progress=False)
    assert len(history.rows) == 1 and len(sizes) >= 6
    before = len(sizes)
    petl.evaluate(model, root, progress=False)
    assert len(sizes) == before
    black = petl.evaluate(model, root, transform=lambda image: Image.new("RGB", image.size), progress=False)
    assert max(sum(column) for column in zip(*black.confusion, strict=True)) == 6  # all predicted alike
    with pytest.raises(DataError, match="transform= is for a folder"):
        petl.fit(model, [(torch.zeros(3, 8, 8), 0)] * 2, epochs=1, lr=1e-3, transform=noted)
    with pytest.raises(petl.PetlError, match="transform=7; expected a function"):
        petl.fit(model, root, epochs=1, lr=1e-3, transform=7)  # type: ignore[arg-type]


@pytest.mark.deep
def test_random_transforms_are_not_cached(folder: Callable[..., Path]) -> None:
    root = folder(cat=4, dog=4)

    def fit(transform: Any, **options: Any) -> str:
        torch.manual_seed(0)
        model = petl.wrap(timm.create_model("test_vit"), "partial", last=1, num_classes=2)
        pipeline = data.pipeline(model)
        train = data.dataset(root, pipeline, training=True, transform=transform)
        return petl.fit(model, train, epochs=1, lr=1e-3, progress=False, **options).features

    assert "petl can't see whether transform Compose is random; cache=True says" in fit(v2.Compose([v2.RandomCrop(8)]))
    assert "were computed once" in fit(KEEPS["PIL"], cache=True)
    with pytest.raises(petl.PetlError, match="gives other images when it is read again"):
        fit(v2.RandomResizedCrop(32), cache=True)


def test_streams_have_it_too() -> None:
    class Source(torch.utils.data.IterableDataset[Any]):
        classes = ("a", "b")

        def __iter__(self) -> Any:
            return iter([(picture(0), 0), (picture(1), 1)])

    stream = data.Stream(Source(), NORMAL, transform=KEEPS["float tensor"])
    torch.testing.assert_close(next(iter(stream))[0], (pixels(picture(0)) - MEAN) / STD)
