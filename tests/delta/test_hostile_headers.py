"""A delta's header by an enemy's hand: it reaches for nothing, takes no memory, and nonsense is seen when it is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import petl
from petl.cli.models import load_delta
from petl.errors import printable
from tests.support.delta_files import args, base, edit, header_of
from tests.support.small_delta import NAME, small


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
    "results that are nested deep": lambda header: {"results": json.loads('{"a":' + "[" * 300 + "]" * 300 + "}")},
    "a temperature beyond any float": lambda header: {"temperature": 10**400},
    "a result beyond any float": lambda header: {"results": {"accuracy": 10**400}},
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_seen_when_the_header_is_read(what: str, delta: Path) -> None:
    edit(delta, NONSENSE[what])
    with pytest.raises(petl.DeltaError) as caught:
        petl.read(delta)
    assert len(str(caught.value)) < 500


@pytest.mark.deep
def test_sizes_in_a_header_take_neither_memory_nor_time(tmp_path: Path) -> None:
    where = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": "", "HOME": str(tmp_path)}
    where |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.large_headers", tmp_path], env=where, capture_output=True, text=True
    )
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
