"""What the header of a saved delta says."""

from __future__ import annotations

from pathlib import Path

import pytest

import petl
from tests.support.delta_files import header_of, rewritten
from tests.support.trained import trained
from tests.support.zoo import ZOO, make


def test_header(tmp_path: Path) -> None:
    model = trained("beit", ["bias", petl.LoRA(rank=2, slices="qv")])
    path = petl.save(
        model, tmp_path / "d.safetensors", labels=list("abcde"), results={"accuracy": 0.5, "seconds": [1, 2]}
    )
    header = petl.read(path)
    assert header == header_of(path)
    assert header["format"] == 1 and header["version"] == petl.__version__
    assert header["backbone"] == {
        "name": f"beit_base_patch16_224.{make('beit').pretrained_cfg['tag']}",
        "num_classes": 5,
        "in_chans": 3,
        "dtype": "float32",
        "args": {**ZOO["beit"][2], "img_size": [32, 32], "global_pool": "avg"},
    }
    assert [m["name"] for m in header["methods"]] == ["bias", "lora"]
    assert header["methods"][1]["rank"] == 2 and header["methods"][1]["slices"] == "qv"
    assert header["sites"][1] == [f"blocks.{i}.attn.qkv" for i in range(2)]
    assert header["head"] is True and header["labels"] == list("abcde")
    assert header["results"] == {"accuracy": 0.5, "seconds": [1, 2]}
    assert {"input_size", "mean", "std", "interpolation", "crop_pct"} <= {*header["pipeline"]}
    assert header["digest"] == petl.record(model).digest
    int(header["digest"], 16)


def test_labels_and_pipeline_of_the_record_are_saved_and_come_back(tmp_path: Path) -> None:
    model = trained("beit", "bias")
    made = petl.record(model)
    made.labels, made.pipeline, made.results = list("vwxyz"), {"input_size": [3, 32, 32], "mean": [0.5] * 3}, {"f1": 1}
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), make("beit"))
    found = petl.record(again)
    assert (found.labels, found.pipeline, found.results) == (made.labels, made.pipeline, made.results)
    path = petl.save(again, tmp_path / "e.safetensors", labels=list("abcde"))
    assert petl.read(path)["labels"] == list("abcde") and petl.read(path)["results"] == {"f1": 1}


def test_a_newer_format_asks_for_an_upgrade(saved: Path) -> None:
    rewritten(saved, {**header_of(saved), "format": 2, "new": True})
    for verb in (petl.read, lambda path: petl.load(path, make("beit"))):
        with pytest.raises(petl.DeltaError, match="upgrade"):
            verb(saved)


def test_unknown_header_entries_are_no_matter(saved: Path) -> None:
    rewritten(saved, {**header_of(saved), "comment": "of a later petl, same format"})
    assert petl.record(petl.load(saved, make("beit")))
