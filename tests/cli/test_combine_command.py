"""``petl combine``, ``petl extract`` and ``petl extend``, one after the other on small files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

import petl
from petl.cli.combine_command import said_data, split_weights
from tests.support.commands import bright_and_dark, call, refused

MODEL = ("--model", "test_resnet:base.safetensors")


def delta(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = petl.wrap(timm.create_model("test_resnet", checkpoint_path="base.safetensors"), "lora", num_classes=2)
    petl.record(model).pipeline = petl.data.pipeline(model, size=32)  # type: ignore[union-attr]  # wrapped
    with torch.no_grad():
        for parameter in petl.trainable(model).values():
            parameter.add_(0.01 * torch.randn_like(parameter))
    petl.save(model, name, labels=["bright", "dark"])


@pytest.mark.deep
def test_combine_extract_and_extend(here: Path) -> None:
    delta("a.safetensors", 1)
    delta("b.safetensors", 2)
    words = ("combine", "a.safetensors", "b.safetensors", *MODEL, "--out", "c.safetensors", "--how", "ties")
    done = call(*words, "--weights", ".5", ".5", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["weights"] == [0.5, 0.5] and petl.read("c.safetensors")["labels"] == [
        "bright",
        "dark",
    ]
    assert "c.safetensors exists" in refused(*words)
    assert "a number for each" in refused(*words, "--overwrite", "--weights", "1,2,3")
    assert "a.safetensors" in refused("combine", "a.safetensors", *MODEL, "--out", "a.safetensors", "--overwrite")
    assert call(*words, "--overwrite", "--weights", "auto", "--data", "pets").exit_code == 0
    assert call("merge", "c.safetensors", "tuned.safetensors", *MODEL).exit_code == 0
    extract = ("extract", "test_resnet:base.safetensors", "tuned.safetensors", "e.safetensors", "--rank", "4")
    done = call(*extract, "--labels", "bright,dark", "--data", "pets")
    assert done.exit_code == 0 and "paired" in done.stdout, done.output
    assert "rank='low'" in refused(*extract[:-1], "low", "--overwrite")
    bright_and_dark(here / "more", 6, seed=3)
    (here / "more" / "dark").rename(here / "more" / "grey")
    assert "would be forgotten" in refused("extend", "a.safetensors", "more", *MODEL)
    done = call("extend", "a.safetensors", "pets", *MODEL)
    assert done.exit_code == 0 and Path("a-extended.ridge.safetensors").is_file(), done.output
    done = call("extend", "a-extended.safetensors", "more", *MODEL, "--out", "more.safetensors", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["new"] == ["grey"], done.output
    assert petl.read("more.safetensors")["labels"] == ["bright", "dark", "grey"]
    assert "exists" in refused("extend", "a.safetensors", "pets", *MODEL)


def test_words_become_weights_and_places() -> None:
    assert split_weights([".7", "a", "b"], [".3"]) == (["a", "b"], [0.3, 0.7])
    assert split_weights(["a"], ["auto"]) == (["a"], "auto")
    with pytest.raises(petl.MethodError, match="expected numbers"):
        split_weights(["a"], ["half"])
    with pytest.raises(petl.MethodError, match="NAME=DATA"):
        said_data(["a=pets", "birds"])
