"""What a header may say: asked before anything is written, and before anything that was read is believed."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils.data import Dataset

import petl
from petl.cli.models import load_delta
from petl.errors import printable
from tests.support.delta_files import args, base, edit, header_of

NAME = "test_resnet"


def small(classes: int = 3, methods: Any = "bias") -> nn.Module:
    torch.manual_seed(0)
    return petl.wrap(timm.create_model(NAME, num_classes=classes), methods)


@pytest.fixture(scope="module")
def delta_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return petl.save(small(), tmp_path_factory.mktemp("d") / "d.safetensors").read_bytes()


@pytest.fixture
def delta(delta_bytes: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "delta.safetensors"
    path.write_bytes(delta_bytes)
    return path


def pipe(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: {"pipeline": {**header["pipeline"], **values}}


# ---- what a header may ask for

REACHES_OUT: dict[str, Any] = {
    "a folder to write to": args(cache_dir="/tmp/x"),
    "an address": args(pretrained_cfg_overlay={"url": "http://127.0.0.1:9/evil.pth", "hf_hub_id": None}),
    "a file as weights": args(pretrained_cfg_overlay={"file": "/etc/passwd"}),
    "a checkpoint": args(checkpoint_path="evil.pth"),
    "a config": args(pretrained_cfg={"url": "file:///etc/passwd"}),
    "a device": args(device="cuda:7"),
    "a type": args(dtype="float64"),
    "an unknown argument": args(anything=1),
    "a path in a known argument": args(act_layer="/etc/passwd"),
    "an address in a known argument": args(block_args={"url": "http://127.0.0.1:9"}),
    "a path as a key": args(block_args={"../x": 1}),
    "a python object": args(norm_layer="torch.nn:LayerNorm"),
    "a name that is a path": base(name="../../resnet"),
    "a name with a line break": base(name="hf-hub:a/b\n"),
    "a name as a list": base(name=["test_resnet"]),
    "an attribute of torch": base(dtype="load"),
}


@pytest.mark.parametrize("what", REACHES_OUT)
def test_a_header_names_no_file_and_no_address(what: str, delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither reading, nor loading, nor loading with a backbone by another name hands it to timm."""
    edit(delta, REACHES_OUT[what])
    calls: list[Any] = []
    model = timm.create_model(NAME, num_classes=3)
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: calls.append((a, k)))
    for verb in (petl.read, petl.load, lambda path: petl.load(path, model), lambda path: load_delta(path, NAME)):
        with pytest.raises(petl.DeltaError, match="header"):
            verb(delta)
    assert not calls


@pytest.mark.parametrize("name", ["hf-hub:a/b", "hf_hub:a/b", "local-dir:/etc"])
def test_names_outside_timm_are_asked_only_when_trusted(
    name: str, delta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(delta, base(name=name))
    assert petl.read(delta)["backbone"]["name"] == name
    asked: list[str] = []

    def create(name: str, **options: Any) -> nn.Module:
        asked.append(name)
        return model

    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=3)
    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(petl.DeltaError, match="trust_remote=True"):
        petl.load(delta)
    assert not asked
    assert petl.load(delta, trust_remote=True, pretrained=False) is model and asked == [name]


NONSENSE: dict[str, Any] = {
    "an image of a terabyte": pipe(input_size=[3, 200_000, 200_000]),
    "no image": pipe(input_size=[3, 0, 224]),
    "two numbers": pipe(input_size=[224, 224]),
    "a fraction of a pixel": pipe(input_size=[3, 224.5, 224]),
    "a standard deviation of 0": pipe(std=[0.2, 0.0, 0.2]),
    "one number": pipe(std=0.5),
    "a negative one": pipe(std=[-1.0] * 3),
    "not a number": pipe(mean=[float("nan")] * 3),
    "five means": pipe(mean=[0.5] * 5),
    "a crop that blows up": pipe(crop_pct=1e-3),
    "no crop": pipe(crop_pct=0),
    "a crop as text": pipe(crop_pct="1"),
    "an unknown interpolation": pipe(interpolation="cubist"),
    "an unknown crop": pipe(crop_mode="corner"),
    "too few labels": lambda header: {"labels": ["a"]},
    "too many labels": lambda header: {"labels": list("abcd")},
    "numbers as labels": lambda header: {"labels": [1, 2, 3]},
    "a task that is a number": lambda header: {"task": 3},
    "results that are a list": lambda header: {"results": [1]},
    "a site twice": lambda header: {"sites": [header["sites"][0] * 2]},
    "a rank of another library that no tensor bears out": lambda header: {
        "methods": [{"name": "peft", "config": {"peft_type": "LOHA", "r": 3 * 10**6}, "where": []}]
    },
    "a bottleneck of a billion": lambda header: {"methods": [{"name": "adapter", "bottleneck": 10**12}]},
    "an infinite factor": lambda header: {"methods": [{"name": "lora", "alpha": float("inf")}]},
    "a list in lists": "[" * 100_000,
    "a table in tables": '{"format": ' * 20_000,
    "a long number": '{"format": ' + "1" * 10_000 + "}",
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_seen_when_the_header_is_read(what: str, delta: Path) -> None:
    edit(delta, NONSENSE[what])
    with pytest.raises(petl.DeltaError) as caught:
        petl.read(delta)
    assert len(str(caught.value)) < 500


LARGE = """
import resource, sys, timm, torch, petl
from petl.tensorfile import write_file
from tests.support.delta_files import args, base, edit
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
folder = sys.argv[1]
def one(name, change, model, *methods):
    torch.manual_seed(0)
    wrapped = petl.wrap(timm.create_model(name, num_classes=3), list(methods))
    path = edit(petl.save(wrapped, f"{folder}/d.safetensors"), change)
    try:
        petl.load(path, timm.create_model(name, num_classes=3) if model else None, pretrained=False)
    except petl.DeltaError:
        return
    raise SystemExit(f"{name} {methods} was taken")
def method(**values):
    return lambda header: {"methods": [{**header["methods"][0], **values}]}
one("test_vit", args(depth=2), False, "bias")  # everything is imported, and has its size
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
one("test_resnet", method(bottleneck=10**12), True, "adapter")
one("test_resnet", method(bottleneck=10**6), True, "adapter")
one("test_resnet", method(kernel=10**6 + 1), True, "adapter")
one("test_vit", method(rank=10**6), True, "lora")
one("test_resnet", method(in_chans=10**6), True, "input")
one("test_vit", base(num_classes=2 * 10**7), True, "bias")
one("test_vit", base(num_classes=10**7), False, "bias")
for values in ({"depth": 5000}, {"embed_dim": 10**5}, {"img_size": 10**6}, {"img_size": 4096, "patch_size": 1},
               {"mlp_ratio": 1e9}, {"reg_tokens": 10**6}, {"num_heads": 10**6}):
    one("test_vit", args(**values), False, "bias")
one("test_resnet", args(width_factor=1000.0), False, "bias")
many = {f"x{i}": torch.empty(0) for i in range(70_000)}
write_file(petl.delta.file.as_path(f"{folder}/many.safetensors"), many, {"petl": "{}"})
for verb in (petl.read, petl.load):
    try:
        verb(f"{folder}/many.safetensors")
    except petl.DeltaError:
        continue
    raise SystemExit("many tensors were taken")
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024
assert grown < 300, f"{grown} MB"
"""


@pytest.mark.deep
def test_sizes_in_a_header_take_neither_memory_nor_time(tmp_path: Path) -> None:
    where = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": "", "HOME": str(tmp_path)}
    where |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", LARGE, tmp_path], env=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_files_of_older_versions_load(delta: Path) -> None:
    """Without the keys that came later, and as written by safetensors itself."""
    later = ("structure", "checksum", "task", "base_dtype", "dtype")
    edit(delta, json.dumps({key: value for key, value in header_of(delta).items() if key not in later}))
    assert petl.read(delta)["task"] is None
    torch.manual_seed(0)
    assert petl.record(petl.load(delta, timm.create_model(NAME, num_classes=3)))


def test_a_changed_number_and_a_changed_word_are_seen(delta: Path) -> None:
    data = delta.read_bytes()
    for place in (len(data) - 1, data.index(b"160"), data.index(b"bias") + 1):
        delta.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        torch.manual_seed(0)
        with pytest.raises(petl.DeltaError, match="checksum"):
            petl.load(delta, timm.create_model(NAME, num_classes=3))


def test_escape_sequences_reach_no_terminal(delta: Path) -> None:
    edit(delta, lambda header: {"labels": ["\x1b[2J", "b", "cat [small]"], "digest": "\x1b]0;title\x07"})
    assert printable(petl.read(delta)["labels"][0]) == "\\x1b[2J" and printable("cat [small]") == "cat [small]"
    with pytest.raises(petl.DeltaError) as caught:
        petl.load(delta, timm.create_model(NAME, num_classes=3))
    assert "\x1b" not in str(caught.value) and "\x07" not in str(caught.value)
    for hidden in ("\u202e", "\u2066", "\x9b", "\x7f", "\u2028", "\ud800", "\r", "\b"):
        assert hidden not in printable(f"a{hidden}b")
    assert printable("Grüße 猫 👩\u200d🔬") == "Grüße 猫 👩\u200d🔬"


def test_messages_have_an_end() -> None:
    assert len(str(petl.DeltaError("x" * 100_000))) <= 1500


# ---- what save refuses, because load would

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
    for dtype in (torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, "float16", 3):
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


UNRECORDABLE: list[dict[str, Any]] = [
    {"norm_layer": print}, {"cache_dir": "x"}, {"x": torch.ones(1)}, {"depth": 10**12}, {3: 4}, {"act_layer": "a/b"},
]  # fmt: skip


@pytest.mark.parametrize("given", UNRECORDABLE, ids=str)
def test_create_args_are_refused_at_wrap(given: dict[str, Any]) -> None:
    model = timm.create_model(NAME)
    with pytest.raises(petl.MethodError, match="create_args"):
        petl.wrap(model, "bias", create_args=given)
    assert petl.record(model) is None


# ---- what only a whole look found

ODD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a crop whose square is no number any more": pipe(crop_pct=1e-200),
    "as many labels as channels": lambda header: {"labels": [str(i) for i in range(32)]},
    "options that are lists in lists": lambda header: {
        "methods": [{**header["methods"][0], "x": json.loads("[" * 900 + "]" * 900)}]
    },
    "a large rank under a pattern named like a seed": lambda header: {
        "methods": [{"name": "peft", "config": {"peft_type": "LORA", "rank_pattern": {"seed|.*": 999_999}}}]
    },
}


@pytest.mark.parametrize("what", ODD)
def test_odd_values_are_found_in_the_header(what: str, delta: Path) -> None:
    for verb in (petl.read, petl.load, lambda path: petl.load(path, timm.create_model(NAME, num_classes=3))):
        with pytest.raises(petl.DeltaError, match="header"):
            verb(edit(delta, ODD[what]))


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


def test_create_args_that_are_no_dict_are_refused() -> None:
    with pytest.raises(petl.MethodError, match="create_args"):
        petl.wrap(timm.create_model(NAME), "bias", create_args=[1])  # type: ignore[arg-type]  # on purpose


def test_a_recipe_that_does_not_fit_is_refused_before_the_backbone_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the backbone was built")

    monkeypatch.setattr("petl.delta.load.build_backbone", never)
    for name, values in (("vit_giant_patch14_dinov2", {}), ("beit_base_patch16_224", {"img_size": 1024})):
        path = petl.save(small(methods="lora"), tmp_path / "delta.safetensors")
        edit(path, lambda header, name=name, values=values: {**base(name=name, args=values)(header), "structure": None})
        with pytest.raises(petl.DeltaError, match=r"the model's is|lacks"):
            petl.load(path, pretrained=False)
