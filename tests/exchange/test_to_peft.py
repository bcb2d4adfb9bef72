"""to_peft: what petl has trained, as an adapter that peft loads onto the plain timm model, or one error and no file."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import petl
from petl.exchange.peft_names import exact_key, saved_whole, settled_entries, unadapted
from tests.support.compare import portrait
from tests.support.peft_adapters import sized
from tests.support.zoo import CLASSES, ZOO, disturb, images, make, output

peft = pytest.importorskip("peft")


def trained(name: str, methods: Any, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return disturb(petl.wrap(make(name), methods, **options), by=0.03)


def by_peft(base: nn.Module, folder: Path) -> nn.Module:
    return peft.PeftModel.from_pretrained(base, str(folder)).eval()


def near(one: Tensor, other: Tensor, most: float = 1e-4) -> bool:
    """Equal up to float32's rounding in another order of sums."""
    return float((one - other).abs().max()) <= most * float(other.abs().max())


def same_answers(name: str, tuned: nn.Module, model: nn.Module) -> bool:
    """Whether both models compute the same; nets that make much of rounding are asked in float64."""
    batch = images(name)
    if near(output(tuned, batch), output(model, batch)):
        return True
    ones, others = (output(copy.deepcopy(net).double(), batch.double()) for net in (tuned, model))
    return near(ones, others, 1e-3)


METHODS: dict[str, tuple[str, Any]] = {
    "the default": ("vit", None),
    "rslora": ("vit", petl.LoRA(rank=3, alpha=5.0, rslora=True)),
    "slices": ("vit", petl.LoRA(rank=3, slices="qv", alpha=6.0)),
    "dora": ("vit", petl.LoRA(dora=True)),
    "dora convs": ("resnet", petl.LoRA(dora=True)),
    "two ranks": ("vit", [petl.LoRA(where="*qkv", rank=2), petl.LoRA(where="*fc1", rank=5, alpha=2.0)]),
    "dora beside lora": ("vit", [petl.LoRA(where="*qkv", dora=True), petl.LoRA(where="*fc1")]),
    "capped ranks": ("efficientnet", petl.LoRA(rank=64)),
    "frozen down": ("vit", petl.LoRA(freeze_down=True)),
    "statistics": ("resnet", ["bn", "lora"]),
    "biases": ("vit", ["bias", "lora"]),
    "biases alone": ("efficientnet", "bias"),
    "probe": ("resnet", "probe"),
    "last blocks": ("vit", petl.Partial(last=1)),
    "everything": ("resnet", "full"),
    "depthwise": ("efficientnet", petl.LoRA(where=("conv", "depthwise"))),
    "same padding": ("efficientnet_same", "lora"),
    "standardised": ("nfnet", "lora"),
    "grouped": ("resnext", "lora"),
    "read, not called": ("swinv2", "lora"),
    "own biases": ("beit", ["bias", "lora"]),
    "experts": ("condconv", "lora"),
    "an lstm": ("sequencer", "lora"),
    "transposed": ("lowformer", "lora"),
    "two classifiers": ("deit_distilled", "lora"),
    "LoHa": ("vit", "peft:LoHa"),
    "LoKr": ("vit", "peft:LoKr"),
    "peft's LoRA": ("vit", ["peft:Lora", "bias"]),
    "IA3": ("vit", peft.IA3Config(target_modules=r".*mlp\.fc1", feedforward_modules=[])),
}
QUICK = ("the default", "slices")


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.deep) for c in METHODS])
def test_peft_computes_and_merges_the_same(case: str, tmp_path: Path) -> None:
    name, methods = METHODS[case]
    model = trained(name, methods)
    written = petl.to_peft(model, tmp_path / "adapter")
    tuned = by_peft(make(name), tmp_path / "adapter")
    assert same_answers(name, tuned, model)
    assert written.difference is not None and sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert same_answers(name, tuned.merge_and_unload(), petl.merge(model))


@pytest.mark.deep
@pytest.mark.sweep(0)
@pytest.mark.parametrize("name", ZOO)
def test_every_family(name: str, tmp_path: Path) -> None:
    model = trained(name, None)
    petl.to_peft(model, tmp_path)
    assert same_answers(name, by_peft(make(name), tmp_path), model)


@pytest.mark.deep
def test_a_new_classifier_and_back_again(tmp_path: Path) -> None:
    """The user makes the timm model with the right number of classes; the folder holds the trained classifier and the labels."""
    model, batch = trained("vit", ["lora", "norm"], num_classes=5), images("vit")
    record = petl.record(model)
    assert record is not None
    record.labels = list("abcde")
    before = portrait(model)
    written = petl.to_peft(model, tmp_path)
    assert portrait(model) == before and written.arguments["num_classes"] == 5
    assert near(output(by_peft(sized(make("vit"), 5), tmp_path), batch), output(model, batch))
    again = petl.from_peft(make("vit"), tmp_path)
    record = petl.record(again)
    assert record is not None and record.labels == list("abcde") and record.methods[0].name == "lora"
    assert near(output(again, batch), output(model, batch))


@pytest.mark.deep
def test_it_trains_on_in_peft(tmp_path: Path) -> None:
    model = trained("resnet", ["bn", "lora"], num_classes=5)
    petl.to_peft(model, tmp_path / "one")
    tuned = peft.PeftModel.from_pretrained(sized(make("resnet"), 5), str(tmp_path / "one"), is_trainable=True)
    names = [name for name, p in tuned.named_parameters() if p.requires_grad]
    assert any("lora_A" in name for name in names) and any("fc.modules_to_save" in name for name in names)
    tuned.save_pretrained(str(tmp_path / "two"), save_embedding_layers=False)
    one, two = (load_file(tmp_path / part / "adapter_model.safetensors") for part in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.deep
def test_more_image_channels(tmp_path: Path) -> None:
    model = trained("resnet", petl.Input(in_chans=4))
    written = petl.to_peft(model, tmp_path)
    base = timm.create_model("test_resnet", num_classes=CLASSES, in_chans=4)
    plain = petl.unwrap(copy.deepcopy(model))
    base.load_state_dict({k: v for k, v in plain.state_dict().items() if k != "conv1.0.weight"}, strict=False)
    batch = images("resnet", channels=4)
    assert written.arguments["in_chans"] == 4 and near(output(by_peft(base, tmp_path), batch), output(model, batch))


def test_other_layers_of_the_same_ending_are_not_hit(tmp_path: Path) -> None:
    model = trained("vit", petl.LoRA(where="blocks.1.attn.qkv"), head=False)
    petl.to_peft(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == r"blocks\.1\.attn\.qkv" and config["modules_to_save"] is None
    tuned = by_peft(make("vit"), tmp_path)
    assert tuned.targeted_module_names == ["blocks.1.attn.qkv"]


REFUSED: dict[str, tuple[str, Any, str]] = {
    "adapters": ("vit", "adapter", "blocks.0"),
    "adapters beside lora": ("resnet", ["lora", "adapter"], "layer1.0"),
    "a padded stem's input": ("efficientnet_same", petl.Input(in_chans=4, bias=True), "bias|input|mix"),
    "parameters of the model": ("vit", "full", "cls_token"),
    "two tuners": ("vit", ["lora", "peft:LoHa"], "LOHA"),
}


@pytest.mark.deep
@pytest.mark.parametrize("case", REFUSED)
def test_what_peft_can_not_say_is_named_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    name, methods, word = REFUSED[case]
    try:
        model = trained(name, methods)
    except petl.PetlError as error:
        pytest.skip(f"petl doesn't wrap that: {error}")
    before = portrait(model)
    with pytest.raises(petl.StateError, match=word):
        petl.to_peft(model, tmp_path / "adapter")
    assert portrait(model) == before and not list(tmp_path.iterdir())


def test_whole_layers_are_the_users_choice(tmp_path: Path) -> None:
    model = trained("resnext", "lora")
    with pytest.raises(petl.StateError, match=r"grouped.*whole_layers=True"):
        petl.to_peft(model, tmp_path / "adapter", whole_layers=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.deep
def test_places_and_states_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = trained("vit", "probe")
    for place in (tmp_path / "file", tmp_path / "none" / "adapter", 3):
        with pytest.raises(petl.DeltaError, match=r"file|folder|path"):
            petl.to_peft(model, place)  # type: ignore[arg-type]
    with pytest.raises(petl.StateError, match="wrapped"):
        petl.to_peft(make("vit"), tmp_path / "adapter")
    with pytest.raises(petl.StateError, match="base_dtype=None"):
        petl.to_peft(petl.wrap(make("vit"), "lora", base_dtype=torch.bfloat16), tmp_path / "adapter")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_trial_leaves_the_old_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("vit", "probe")
    petl.to_peft(model, tmp_path)
    old = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr("peft.PeftModel.from_pretrained", lambda base, folder: base)
    disturb(model)
    with pytest.raises(petl.StateError, match="other outputs|can't load"):
        petl.to_peft(model, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == old


def test_names_as_peft_matches_them() -> None:
    names = ["conv1", "norm", "layer1.0.conv1", "layer1.0.norm", "layer1.0.fc_norm", "layer1.0.norm.fc"]
    assert re.match(rf"(.*\.)?({exact_key('conv1')})$", "conv1")
    assert not re.match(rf"(.*\.)?({exact_key('conv1')})$", "layer1.0.conv1")
    assert saved_whole(names, ["norm"]) == ["norm", "layer1.0.norm", "layer1.0.fc_norm"]
    assert unadapted(["layer1.0.norm.fc", "conv1"], ["norm"]) == ["layer1.0.norm.fc"]
    inside = ["layer1.0.norm.fc", "norm"]  # the first lies in a module that the second reaches
    assert settled_entries(names, inside, ["conv1"]) == settled_entries(names, ["norm"], ["conv1"])
    assert settled_entries(names, ["norm"], ["conv1"]) == (["norm"], ["norm", "layer1.0.norm", "layer1.0.fc_norm"])
