"""petl.predict: rows in the order of the images, whatever they come as; the model stays as it was."""

from __future__ import annotations

import gc
import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

import petl
from petl.prediction.image_lists import list_images
from petl.prediction.meaning import description_of
from petl.prediction.passes import Block, Pass
from petl.prediction.reading import ReadImages, rank_ranges
from petl.prediction.streaming import LazyPipeline, PassSettings, stream
from petl.prediction.writers import CsvWriter
from tests.prediction.conftest import NAMES
from tests.support.image_files import make_tar

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
ROUNDING = 1e-5  # of a probability, between batches of different sizes


def one_by_one(model: nn.Module, pipeline: Any, paths: list[Path]) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        return np.stack([model(petl.data.image(path, pipeline)[None]).softmax(1)[0].numpy() for path in paths])


@pytest.fixture
def expected(model: nn.Module, pipeline: Any, pictures: Path) -> np.ndarray:
    return one_by_one(model, pipeline, [pictures / name for name in NAMES])


def same(found: petl.Predictions, expected: np.ndarray) -> bool:
    return np.allclose(found.probabilities, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": 3, "workers": 2}])
def test_a_folder_in_order_without_its_bad_files(
    options: dict[str, int], model: nn.Module, pipeline: Any, pictures: Path, expected: np.ndarray
) -> None:
    found = petl.predict(model, pictures, pipeline=pipeline, **options)
    assert found.files == NAMES and same(found, expected)
    assert options.get("batch_size") != 1 or np.array_equal(found.probabilities, expected)
    assert [name for name, _ in found.skipped] == ["a/7.5.png", "b/cut.png"] and "empty" in found.skipped[0][1]


def test_every_kind_of_source_gives_the_same(
    model: nn.Module, pipeline: Any, pictures: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    pandas = pytest.importorskip("pandas")
    paths = [pictures / name for name in NAMES]
    tensors = torch.stack([petl.data.image(path, pipeline) for path in paths])
    pils = [Image.open(path) for path in paths]
    pairs = TensorDataset(tensors, torch.zeros(10, dtype=torch.long))
    (tmp_path / "list.csv").write_text("\n".join(["path", *map(str, paths)]))
    sources: dict[str, Any] = {
        "paths": paths,
        "a generator of paths": iter(paths),
        "an array of paths": np.array([str(path) for path in paths]),
        "a table": tmp_path / "list.csv",
        "a frame with a column of paths": pandas.DataFrame({"label": 0, "path": [str(path) for path in paths]}),
        "keys that are paths": dict.fromkeys(paths).keys(),
        "entries that are paths": [
            next(entry for entry in os.scandir(p.parent) if entry.name == p.name) for p in paths
        ],
        "PIL images": pils,
        "bytes": [path.read_bytes() for path in paths],
        "open files": [io.BytesIO(path.read_bytes()) for path in paths],
        "a generator of images": (image for image in pils),
        "arrays": [np.asarray(image) for image in pils],
        "one array": np.stack([np.asarray(image) for image in pils]),
        "a tensor": tensors,
        "tensors": list(tensors),
        "a dataset": pairs,
        "a subset": Subset(pairs, range(10)),
        "dicts": [{"image": image, "label": 0} for image in tensors],
        "a loader": DataLoader(pairs, batch_size=4),
        "a list of batches": [pairs[:6], pairs[6:]],
        "a loader of images": DataLoader(tensors, batch_size=4),
        "a stream": Stream(tensors),
        "a stream in a loader": DataLoader(Stream(tensors), batch_size=3),
    }
    for name, source in sources.items():
        found = petl.predict(model, source, pipeline=pipeline)
        assert same(found, expected), name
        assert found.files == ([str(path) for path in paths] if "path" in name or "table" in name else numbered(10)), (
            name
        )
    tar = petl.predict(model, make_tar(pictures, tmp_path / "all.tar"), pipeline=pipeline)
    assert tar.files == NAMES and same(tar, expected) and len(tar.skipped) == 2


def numbered(count: int) -> list[str]:
    return [f"image {number}" for number in range(count)]


class Stream(IterableDataset[Tensor]):
    def __init__(self, images: Tensor):
        self.images = images

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.images)


@pytest.mark.parametrize("loader", [False, True])
def test_datasets_of_files_name_them_and_skip_bad_ones(
    loader: bool, model: nn.Module, pipeline: Any, pictures: Path, expected: np.ndarray
) -> None:
    (pictures / "b" / "cut.png").rename(pictures / "b" / "6.5.png")
    images = petl.data.dataset(pictures, pipeline, split=".")
    found = petl.predict(model, DataLoader(images, batch_size=4) if loader else images)
    assert found.files == [str(pictures / name) for name in NAMES] and same(found, expected)
    assert [Path(name).name for name, _ in found.skipped] == ["7.5.png", "6.5.png"]
    assert not any(str(pictures) in why for _, why in found.skipped) and not images.marks


def test_a_folder_of_torchvisions(model: nn.Module, pipeline: Any, pictures: Path) -> None:
    (pictures / "b" / "cut.png").write_bytes(b"no image")
    found = petl.predict(model, ImageFolder(str(pictures)), pipeline=pipeline)
    assert sorted(found.files) == sorted(str(pictures / name) for name in NAMES) and len(found.skipped) == 2


def test_the_model_and_random_numbers_stay(model: nn.Module, pictures: Path, pipeline: Any) -> None:
    model.train()
    model.bn1.eval()
    modes, state = [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    before = torch.get_rng_state()
    for source in (pictures, DataLoader(TensorDataset(torch.zeros(4, 3, 32, 32)))):
        petl.predict(model, source, pipeline=pipeline)
    with pytest.raises(petl.DataError):
        petl.predict(model, torch.zeros(2, 5, 32, 32))
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_rows_say_what_the_array_says(model: nn.Module, pictures: Path, pipeline: Any) -> None:
    found = petl.predict(model, pictures, pipeline=pipeline, labels=["x", "image", "z"], top=2)
    assert len(found) == len(list(found)) == 10 and found[-1] == list(found)[-1] and found[2:4] == list(found)[2:4]
    for row, values, name in zip(found, found.probabilities, NAMES, strict=True):
        best = int(values.argmax())
        assert row["image"] == name and row["label"] == found.labels[best] and row["confidence"] == values[best]
        assert row["probabilities"] == dict(zip(found.labels, values.tolist(), strict=True))
        assert [p["label"] for p in row["predictions"]] == [found.labels[k] for k in np.argsort(-values)[:2]]
    assert "probabilities" not in petl.predict(model, pictures, pipeline=pipeline, probabilities=False)[0]
    assert "a/6.png" in repr(found) and "10 images; 2 skipped" in repr(found) and "<table>" in found._repr_html_()


def test_a_wrapped_model_answers_by_its_task(pictures: Path) -> None:
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=2)
    record = petl.record(model)
    record.labels, record.task, record.pipeline = ["sun", "sea"], "multilabel", petl.data.pipeline(model, size=32)
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.tensor([2.0, -2.0]))
    found = petl.predict(model, pictures)
    assert found[0]["labels"] == ["sun"] and found.probabilities[0] == pytest.approx([0.8808, 0.1192], abs=1e-4)
    record.task = "regression"
    found = petl.predict(model, pictures)
    assert found[0] == {"image": "a/6.png", "values": {"sun": 2.0, "sea": -2.0}}
    with pytest.raises(petl.StateError, match="no probabilities"):
        _ = found.probabilities
    embedded = petl.predict(petl.wrap(timm.create_model("test_resnet", num_classes=0), "bias"), pictures, task="metric")
    assert len(embedded[0]["embedding"]) == embedded.values.shape[1] > 10 and "numbers)" in repr(embedded)


def test_bad_files_alone_or_with_strict_are_errors(model: nn.Module, pictures: Path, pipeline: Any) -> None:
    calls: list[Any] = []
    model.register_forward_pre_hook(lambda module, args: calls.append(args))
    for source, said in (
        (pictures, r"^a/7\.5\.png: the file is empty"),
        ([np.full((4, 4, 3), np.nan, np.float32)], "NaN or infinite"),
    ):
        with pytest.raises(petl.DataError, match=said):
            petl.predict(model, source, pipeline=pipeline, strict=True)
    with pytest.raises(petl.DataError, match=r"^gone\.png: No such file"):
        petl.predict(model, [Path("gone.png")], pipeline=pipeline)
    with pytest.raises(petl.DataError, match=r"none of the 2 images can be read; the first one: gone\.png"):
        petl.predict(model, ["gone.png", pictures / "a" / "7.5.png"], pipeline=pipeline)
    assert not calls
    kept = petl.predict(model, [torch.zeros(3, 32, 32), torch.full((3, 32, 32), torch.inf)])
    assert kept.files == ["image 0"] and kept.skipped == [("image 1", "it has pixels that are NaN or infinite")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": ["a"]}, "1 labels for a model of 3 outputs"),
        ({"labels": "abc"}, "expected a list of class names"),
        ({"task": "segmentation"}, "segmentation"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"workers": -1}, "workers=-1"),
        ({"top": 0}, "top=0"),
        ({"precision": "fp8"}, "fp8"),
        ({"out": "x.txt"}, "csv"),
        ({"out": "nowhere/x.csv"}, "can't write"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "uint8"),
        ({"images": [torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)]}, "one shape"),
        ({"images": TensorDataset(torch.zeros(0, 3, 8, 8))}, "empty"),
        ({"images": DataLoader(TensorDataset(torch.zeros(0, 3, 8, 8)))}, "no image"),
        ({"images": [("x", 1)]}, "found no image"),
        ({"images": nn.Linear(1, 1)}, "got Linear"),
        ({"images": "https://example.com/a.png"}, "is an address"),
        ({"images": np.array("a.png")}, r"of shape \(\)"),
        ({"images": torch.zeros(2, 3, 32, 32), "pipeline": {"size": 3}}, r"petl\.data\.pipeline\(model\)"),
    ],
)
def test_what_cant_be_done_is_refused(options: dict[str, Any], said: str, model: nn.Module, tmp_path: Path) -> None:
    given = {"images": torch.zeros(2, 3, 32, 32), **options}
    if "out" in given:
        given["out"] = tmp_path / given["out"]
    with pytest.raises(petl.PetlError, match=said):
        petl.predict(model, given.pop("images"), **given)
    assert not list(tmp_path.iterdir())


def test_a_broken_model_is_named(model: nn.Module) -> None:
    with torch.no_grad():
        model.fc.bias.fill_(float("nan"))
    with pytest.raises(petl.DeltaError, match="image 0: the model's answer is NaN"):
        petl.predict(model, torch.zeros(2, 3, 32, 32))


def test_bf16_answers_nearly_the_same(model: nn.Module) -> None:
    images = torch.randn(3, 3, 32, 32)
    low, plain = petl.predict(model, images, precision="bf16"), petl.predict(model, images)
    assert np.abs(low.probabilities - plain.probabilities).max() < 0.1 and low.probabilities.dtype == np.float32


@pytest.mark.deep
def test_a_stream_holds_one_batch_at_a_time(model: nn.Module) -> None:
    """Counted: tensors that are alive at each batch, whatever has gone by; and no answer is kept where a file takes them."""
    frames = (np.full((32, 32, 3), number, np.uint8) for number in range(60))
    alive, pipeline = [], petl.data.pipeline(model, size=32)
    settings = PassSettings(batch_size=1, pipeline=pipeline)
    for _, block in stream(model, frames, description_of(model), settings):
        assert len(block.names) == 1
        gc.collect()
        alive.append(sum(isinstance(thing, Tensor) for thing in gc.get_objects()))
    assert len(alive) == 60 and alive[-1] == alive[1]


def test_with_a_file_the_answers_are_there_alone(
    model: nn.Module, pictures: Path, pipeline: Any, tmp_path: Path
) -> None:
    found = petl.predict(model, pictures, pipeline=pipeline, out=tmp_path / "x.csv", batch_size=3)
    assert len(found) == 10 and len(found.skipped) == 2 and "x.csv" in repr(found) and found.out == tmp_path / "x.csv"
    kept = petl.predict(model, pictures, pipeline=pipeline, batch_size=3)
    assert kept.to_csv(tmp_path / "y.csv").read_bytes() == (tmp_path / "x.csv").read_bytes()
    for question in (lambda: found[0], lambda: found.probabilities, lambda: list(found), lambda: found.to_csv("z.csv")):
        with pytest.raises(petl.StateError, match=r"x\.csv"):
            question()


@pytest.mark.deep
def test_a_file_takes_the_answers_one_batch_at_a_time(model: nn.Module, tmp_path: Path, monkeypatch: Any) -> None:
    """Counted: the batches of answers that are alive whenever one is written."""
    alive, add = [], CsvWriter.add

    def counting(writer: CsvWriter, block: Block) -> None:
        gc.collect()
        alive.append(sum(isinstance(thing, Block) for thing in gc.get_objects()))
        add(writer, block)

    monkeypatch.setattr(CsvWriter, "add", counting)
    petl.predict(model, torch.randn(20, 3, 32, 32), out=tmp_path / "x.csv", batch_size=1)
    assert len(alive) == 20 and max(alive) <= 2


def test_views_are_averaged(model: nn.Module) -> None:
    """The one place for test-time augmentation: answers, not outputs, are averaged."""
    images = torch.randn(2, 3, 32, 32)
    settings = PassSettings(views=[lambda batch: batch, lambda batch: batch.flip(-1)])
    ((meaning, block),) = stream(model, images, description_of(model), settings)
    with torch.no_grad():
        both = (model(images).softmax(1) + model(images.flip(-1)).softmax(1)) / 2
    assert meaning is not None and np.allclose(block.values, both.numpy(), atol=ROUNDING)


def test_readers_go_to_processes_that_start_afresh_without_the_model(model: nn.Module, pictures: Path) -> None:
    reader = ReadImages(list_images(pictures), LazyPipeline(None, model))
    data = pickle.dumps(reader)
    assert len(data) < 10_000
    name, image = pickle.loads(data)[0]
    assert name == "a/6.png" and torch.equal(image, reader[0][1])


def test_images_that_are_augmented_are_said(pictures: Path, model: nn.Module, pipeline: Any, caplog: Any) -> None:
    images = petl.data.dataset(pictures, pipeline, split=".", training=True)
    petl.predict(model, images)
    assert "training=False" in caplog.text


def test_ranks_share_batches_in_turn() -> None:
    for count, size, ranks in ((10, 4, 2), (1, 32, 2), (5, 32, 2), (7, 1, 3), (64, 8, 4)):
        shares = [rank_ranges(count, size, rank, ranks) for rank in range(ranks)]
        steps = len(shares[0])
        turns = [shares[r][s] for s in range(steps) for r in range(ranks) if s < len(shares[r])]
        assert [i for indices in turns for i in indices] == list(range(count))
        assert all(len(share) <= steps for share in shares) and all(len(indices) <= size for indices in turns)


@pytest.mark.parametrize("error", [petl.DataError("of the other rank"), ValueError("of the other rank")], ids=repr)
def test_an_error_of_one_rank_is_raised_by_all(error: Exception, model: nn.Module, monkeypatch: Any) -> None:
    class Two:
        num_processes, device, mixed_precision = 2, torch.device("cpu"), "no"

    monkeypatch.setattr("petl.extraction.feature_pass.exchanged", lambda accelerator, own: [own, error])
    work = Pass(Two(), model, {})
    with pytest.raises(type(error), match="of the other rank"):
        list(work.blocks(iter([])))
