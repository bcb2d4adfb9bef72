"""export: files that onnxruntime and torch run with the model's own answers, labels and pipeline; and the three commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import petl
from petl.exchange.kept_texts import note_texts
from tests.support.commands import call, refused
from tests.support.compare import portrait
from tests.support.zoo import disturb, images, make, output

METHODS: dict[str, tuple[str, Any]] = {
    "lora": ("vit", "lora"),
    "adapter": ("resnet", ["adapter", "lora"]),
    "input": ("efficientnet", petl.Input(in_chans=4)),
    "loha": ("vit", "peft:LoHa"),
    "bn": ("resnet", "bn"),
    "read, not called": ("swinv2", "lora"),
    "convnext": ("convnext", None),
}
TESTED = [name for name in timm.list_models("test_*") if timm.is_model(name)]


def trained(name: str, methods: Any, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = disturb(petl.wrap(make(name), methods, **options), by=0.03)
    record = petl.record(model)
    assert record is not None
    record.labels, record.temperature = list("abcde"), 2.0
    return model


def onnx_answers(path: Path, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path))
    said = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    return torch.from_numpy(session.run(None, {"images": batch.numpy()})[0]), said


@pytest.mark.deep
def test_a_program_with_its_metadata(tmp_path: Path) -> None:
    model, batch = trained("vit", "lora", num_classes=5), images("vit", batch=4)
    before = portrait(model)
    written = petl.export(model, tmp_path / "a.pt2")
    assert portrait(model) == before and written.input_shape == ["batch", 3, 64, 64]
    texts = {"labels": "", "pipeline": "", "temperature": ""}
    program = torch.export.load(tmp_path / "a.pt2", extra_files=texts).module()
    assert json.loads(texts["labels"]) == list("abcde") and json.loads(texts["temperature"]) == 2.0
    assert json.loads(texts["pipeline"])["input_size"] == [3, 64, 64]
    assert torch.allclose(program(batch), output(model, batch), atol=1e-5)


@pytest.mark.deep
@pytest.mark.parametrize("case", METHODS)
def test_onnxruntime_answers_as_the_model(case: str, tmp_path: Path) -> None:
    name, methods = METHODS[case]
    model = trained(name, methods, num_classes=5)
    side = petl.data.pipeline(model)["input_size"]
    before = portrait(model)
    written = petl.export(model, tmp_path / "a.onnx", probabilities=True)
    assert portrait(model) == before and written.outputs == ["probabilities"]
    batch = torch.randn(5, *side)
    answers, said = onnx_answers(tmp_path / "a.onnx", batch)
    assert torch.allclose(answers, (output(model, batch) / 2.0).softmax(1), atol=1e-4)
    assert said["labels"] == list("abcde") and said["pipeline"]["input_size"] == list(side)
    assert bool(written.layers_of_their_own) == (case in ("adapter", "input") and written.layers_of_their_own != [])


@pytest.mark.deep
@pytest.mark.sweep(0)
@pytest.mark.parametrize("name", TESTED)
def test_every_tiny_model(name: str, tmp_path: Path) -> None:
    model = petl.wrap(timm.create_model(name), num_classes=3)
    for kind in ("onnx", "pt2"):
        assert petl.export(model, tmp_path / f"a.{kind}").difference <= 1e-3


@pytest.mark.deep
def test_sizes_may_vary_where_the_model_can(tmp_path: Path) -> None:
    model = trained("resnet", "lora", num_classes=5)
    petl.export(model, tmp_path / "a.onnx", size=64, fixed_size=False)
    batch = torch.randn(2, 3, 96, 128)
    assert torch.allclose(onnx_answers(tmp_path / "a.onnx", batch)[0], output(model, batch), atol=1e-4)
    with pytest.raises(petl.StateError, match="fixed_size"):
        petl.export(trained("swinv2", "lora", num_classes=5), tmp_path / "b.pt2", fixed_size=False)


def test_what_can_not_be_is_one_error_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("vit", "probe", num_classes=5)
    for place, word in (("a.txt", "ending"), ("none/a.pt2", "folder")):
        with pytest.raises(petl.DeltaError, match=word):
            petl.export(model, tmp_path / place)
    with pytest.raises(petl.DeltaError, match="labels"):
        petl.export(model, tmp_path / "a.pt2", labels=["one"])
    with pytest.raises(petl.StateError, match="size="):
        petl.export(model, tmp_path / "a.pt2", size=63)
    monkeypatch.setattr("petl.exchange.onnx_files.LARGEST", 1000)
    with pytest.raises(petl.StateError, match="pt2"):
        petl.export(model, tmp_path / "a.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(petl.StateError, match=r"petl-vision\[export\]"):
        petl.export(model, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.deep
def test_a_merged_model_and_a_regression(tmp_path: Path) -> None:
    model = trained("vit", "lora", num_classes=5)
    record = petl.record(model)
    assert record is not None
    record.task, record.labels, record.temperature = "regression", None, None
    with pytest.raises(petl.StateError, match="regression"):
        petl.export(model, tmp_path / "a.pt2", probabilities=True)
    assert petl.export(model, tmp_path / "a.pt2").outputs == ["values"]
    assert petl.export(petl.merge(model), tmp_path / "b.pt2", labels=list("abcde")).outputs == ["logits"]


def test_texts_that_no_header_has_are_left_out() -> None:
    record = petl.Record((), [])
    note_texts(record, {"labels": '["a", "b"]', "temperature": "-1", "task": "{", "pipeline": '{"input_size": [3]}'}, 2)
    assert (record.labels, record.temperature, record.task, record.pipeline) == (["a", "b"], None, None, None)
    note_texts(record, {"labels": '["a"]'}, 3)
    assert record.labels == ["a", "b"]


@pytest.mark.deep
def test_the_commands(tmp_path: Path) -> None:
    base = timm.create_model("test_vit")
    torch.save(base.state_dict(), tmp_path / "base.pth")
    weights = f"test_vit:{tmp_path / 'base.pth'}"
    model = petl.wrap(base, ["lora", "norm"], num_classes=3)
    delta = petl.save(disturb(model, by=0.03), tmp_path / "a.safetensors", labels=["a", "b", "c"])
    to = ("to-peft", delta, tmp_path / "peft", "--model", weights)
    assert json.loads(call(*to, "--json").stdout)["tuner"] == "LoRA" and "--overwrite" in refused(*to)
    assert call(*to, "--overwrite").exit_code == 0
    back = ("from-peft", tmp_path / "peft", tmp_path / "b.safetensors")
    assert "--model" in refused(*back) and call(*back, "--model", weights).exit_code == 0
    again = petl.load(
        tmp_path / "b.safetensors", timm.create_model("test_vit", checkpoint_path=str(tmp_path / "base.pth"))
    )
    batch = torch.randn(2, 3, 160, 160)
    assert torch.allclose(output(again, batch), output(model, batch), atol=1e-4)
    assert petl.read(tmp_path / "b.safetensors")["labels"] == ["a", "b", "c"]
    out = ("export", delta, tmp_path / "a.pt2", "--model", weights)
    assert "HEIGHTxWIDTH" in refused(*out, "--size", "big") and "MB" in call(*out, "--probabilities").stdout
    assert "ending" in refused("export", delta, tmp_path / "a.txt", "--model", weights)


@pytest.mark.deep
def test_numpy_and_pil_alone_read_the_file_back(tmp_path: Path) -> None:
    """The lines of docs/export.md, against petl.predict."""
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    lines = next(block.split("```")[0] for block in page.split("```python\n")[1:] if "def classify" in block)
    model = trained("resnet", "lora", num_classes=5)
    petl.export(model, tmp_path / "pets.onnx", probabilities=True)
    noise = np.random.default_rng(0).integers(0, 255, (211, 170, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cat.png")
    scope: dict[str, Any] = {}
    exec(compile(lines.split("# use it")[0], "docs/export.md", "exec"), scope)
    label, confidence = scope["classify"](tmp_path / "pets.onnx", tmp_path / "cat.png")
    wanted = next(iter(petl.predict(model, [tmp_path / "cat.png"], progress=False)))
    assert wanted["label"] == label and confidence == pytest.approx(wanted["confidence"], abs=1e-3)
