"""What the record takes and refuses, because a delta of it must load: labels, tasks, results, types."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils.data import Dataset

import petl
from tests.support.small_delta import NAME, small

GOOD_LABELS: dict[str, Any] = {
    "numbers": [1, 2, 3],
    "a range": range(1, 4),
    "numpy's numbers": np.arange(1, 4),
    "torch's numbers": torch.arange(1, 4),
    "numpy's texts": np.array(["1", "2", "3"]),
    "keys": {"1": 0, "2": 1, "3": 2}.keys(),
    "a generator": (str(i) for i in range(1, 4)),
}
BAD_LABELS: dict[str, Any] = {
    "a set": {"a", "b", "c"},
    "a frozen set": frozenset("abc"),
    "a dict": {"a": 0, "b": 1, "c": 2},
    "a text": "abc",
    "too few": ["a", "b"],
    "too many": list("abcd"),
    "none": [],
    "a number": 3,
    "nothing": [None, None, None],
    "fractions": [0.5, 1.5, 2.5],
    "fractions in a tensor": torch.tensor([0.5, 1.5, 2.5]),
    "bytes": [b"a", b"b", b"c"],
    "lists": [["a"], ["b"], ["c"]],
    "half a character": ["a", "b", "\ud800"],
}


@pytest.mark.parametrize("kind", GOOD_LABELS)
def test_labels_become_texts(kind: str, tmp_path: Path) -> None:
    path = petl.save(small(), tmp_path / "d.safetensors", labels=GOOD_LABELS[kind])
    assert petl.read(path)["labels"] == ["1", "2", "3"]


@pytest.mark.parametrize("kind", BAD_LABELS)
@pytest.mark.sweep(5)
def test_labels_that_no_delta_can_have(kind: str, tmp_path: Path) -> None:
    """Refused by save, and by fit before the first step."""
    model, data = small(), [(torch.randn(3, 32, 32), i % 3) for i in range(6)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(petl.PetlError):
        petl.save(model, tmp_path / "d.safetensors", labels=BAD_LABELS[kind])
    with pytest.raises(petl.PetlError):
        petl.fit(model, data, epochs=1, lr=1.0, labels=BAD_LABELS[kind], out=tmp_path / "d.safetensors", progress=False)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not list(tmp_path.iterdir())


class Shards(Dataset[Any]):
    """A dataset with attributes of petl's names that mean other things, as webdataset's have."""

    def __init__(self, classes: Any):
        self.classes, self.pipeline = classes, [print, len]

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return torch.randn(3, 32, 32), index % 3


@pytest.mark.parametrize(
    "classes",
    [3, len, lambda: ["a"], None, {"a": 0}, "abc", {"x", "y"}, ["a", "b", "c"]],
    ids=["number", "method", "lambda", "nothing", "dict", "text", "set", "list"],
)
@pytest.mark.sweep(3)
def test_attributes_of_other_datasets_mean_other_things(classes: Any, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    petl.fit(small(), Shards(classes), epochs=1, lr=1e-3, out=path, progress=False)
    header = petl.read(path)
    assert header["labels"] == (classes if isinstance(classes, list) else ["0", "1", "2"])
    assert header["pipeline"]["input_size"] == [3, 160, 160]


def test_layers_that_came_after_wrap_are_named(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = petl.wrap(timm.create_model("test_vit", num_classes=3), "lora")
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv"]))
    other = petl.wrap(timm.create_model("test_vit", num_classes=3), "lora")
    other.head = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 3))
    for one in (model, other):
        with pytest.raises(petl.StateError, match="after petl.wrap"):
            petl.save(one, tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_task_is_recorded_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    assert petl.read(petl.save(small(), path))["task"] == "classification"
    assert petl.read(petl.save(small(1), path))["task"] is None  # no softmax over one output
    assert petl.read(petl.save(small(), path, task="multilabel"))["task"] == "multilabel"
    torch.manual_seed(0)
    again = petl.load(path, timm.create_model(NAME, num_classes=3))
    assert petl.record(again).task == "multilabel" and petl.read(petl.save(again, path))["task"] == "multilabel"
    with pytest.raises(petl.DeltaError, match="multilabel"):
        petl.save(small(), path, task="multi-label")


def test_types_that_can_not_hold_the_numbers(tmp_path: Path) -> None:
    model, path = small(methods="bn"), tmp_path / "d.safetensors"
    model.bn1.running_var[3] = 70_000.0
    with pytest.raises(petl.DeltaError, match=r"bn1\.running_var reaches 7e\+04"):
        petl.save(model, path, dtype=torch.float16)
    for dtype in (torch.int16, torch.bool, torch.complex64, torch.float8_e4m3fn, "float8", 3):
        with pytest.raises(petl.DeltaError, match=r"torch\.bfloat16"):
            petl.save(model, path, dtype=dtype)
    assert not path.exists()
    assert petl.read(petl.save(model, path, dtype=torch.bfloat16))["dtype"] == "bfloat16"
    model.bn1.running_var[3] = float("inf")  # what was infinite may stay so
    assert petl.save(model, path, dtype=torch.float16)


@pytest.mark.parametrize("results", [[1], {"a": torch.ones(1)}, {"a": print}, "text", {"a": {1, 2}}], ids=str)
def test_results_that_are_no_json(results: Any, tmp_path: Path) -> None:
    with pytest.raises(petl.DeltaError):
        petl.save(small(), tmp_path / "d.safetensors", results=results)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("classes", [0, 7])
def test_a_classifier_changed_by_hand_after_wrap_comes_back(classes: int, tmp_path: Path) -> None:
    """Put in by hand, where timm's own number says nothing of it, or taken away."""
    base, x = timm.create_model(NAME), torch.randn(2, 3, 32, 32)
    model: Any = petl.wrap(copy.deepcopy(base), "lora", num_classes=5).eval()
    if classes:
        model.fc = torch.nn.Linear(model.fc.in_features, classes)
    else:
        model.reset_classifier(0)
    labels = [str(i) for i in range(classes)] or None
    again = petl.load(petl.save(model, tmp_path / "d.safetensors", labels=labels), base).eval()
    assert torch.equal(again(x), model(x))
    with pytest.raises(petl.DeltaError, match="labels"):
        petl.save(model, tmp_path / "d.safetensors", labels=[str(i) for i in range(8)])
