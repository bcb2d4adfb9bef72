"""from_peft: what peft has trained on a timm model, with equal outputs, as a change that petl saves, loads and merges."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import petl
from tests.support.compare import portrait
from tests.support.peft_adapters import batch_for, sized, trained_by_peft
from tests.support.zoo import CLASSES, make, output

peft = pytest.importorskip("peft")

ATTENTION = ["qkv", "attn.proj"]
MLP = r".*\.mlp\.fc[12]"
# name -> (model, config, whether petl's own LoRA computes the same)
CASES: dict[str, tuple[str, Callable[[], Any], bool]] = {
    "lora": ("vit", lambda: peft.LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["head"]), True),
    "rslora": ("vit", lambda: peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=MLP), True),
    "dora": ("vit", lambda: peft.LoraConfig(r=4, use_dora=True, target_modules=ATTENTION), True),
    "patterns": (
        "vit",
        lambda: peft.LoraConfig(
            r=4,
            target_modules=["qkv", "fc1"],
            rank_pattern={r"blocks\.0\.mlp\.fc1": 2, "qkv": 3},
            alpha_pattern={"fc1": 5},
        ),
        True,
    ),
    "all-linear": ("vit", lambda: peft.LoraConfig(r=4, target_modules="all-linear", exclude_modules=["head"]), True),
    "head too": ("vit", lambda: peft.LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1), True),
    "some blocks": (
        "vit",
        lambda: peft.LoraConfig(target_modules=["qkv"], layers_to_transform=[1, 2], layers_pattern="blocks"),
        True,
    ),
    "bias all": (
        "vit",
        lambda: peft.LoraConfig(r=2, target_modules=["qkv"], bias="all", modules_to_save=["head", "norm"]),
        True,
    ),
    "bias lora_only": ("vit", lambda: peft.LoraConfig(r=2, target_modules=["qkv"], bias="lora_only"), True),
    "lora_bias": ("vit", lambda: peft.LoraConfig(r=2, target_modules=["qkv"], lora_bias=True), False),
    "convs": (
        "resnet",
        lambda: peft.LoraConfig(r=2, target_modules=["0.conv1", "conv2"], modules_to_save=["fc", "bn1"]),
        True,
    ),
    "dora convs": ("resnet", lambda: peft.LoraConfig(r=2, use_dora=True, target_modules=r"layer\d\.0\.conv2"), True),
    "norms": ("efficientnet", lambda: peft.LoraConfig(r=2, target_modules=["conv_pw"], modules_to_save=["bn2"]), True),
    "rank beyond": ("efficientnet", lambda: peft.LoraConfig(r=70, target_modules=["conv_pw"]), False),
    "grouped": (
        "resnext",
        lambda: peft.LoraConfig(r=4, target_modules=r"layer[12].*conv2", modules_to_save=["fc"]),
        False,
    ),
    "loha": ("vit", lambda: peft.LoHaConfig(r=2, target_modules=ATTENTION, modules_to_save=["head"]), False),
    "loha patterns": ("vit", lambda: peft.LoHaConfig(r=2, target_modules=MLP, rank_pattern={"fc1": 3}), False),
    "lokr": ("vit", lambda: peft.LoKrConfig(r=2, target_modules=ATTENTION, modules_to_save=["head"]), False),
    "lokr convs": ("convnext", lambda: peft.LoKrConfig(r=2, target_modules=["fc1", "fc2"], decompose_both=True), False),
    "ia3": ("vit", lambda: peft.IA3Config(target_modules=["qkv"], feedforward_modules=[]), False),
}
QUICK = ("lora", "loha")


def adapter(name: str, folder: Path) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """A base, images, and what peft answers after training; the adapter is in the folder."""
    zoo_name, config, _ = CASES[name]
    base, batch = make(zoo_name), batch_for(zoo_name)
    return base, batch, trained_by_peft(base, config(), batch, folder, CLASSES)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.deep) for n in CASES])
def test_equal_outputs_and_a_delta_of_petl(name: str, tmp_path: Path) -> None:
    base, batch, answers = adapter(name, tmp_path / "adapter")
    model = petl.from_peft(copy.deepcopy(base), tmp_path / "adapter")
    record = petl.record(model)
    assert record is not None
    native = not any(method.name == "peft" for method in record.methods)
    assert native == CASES[name][2]
    out = output(model, batch)
    assert torch.allclose(out, answers, atol=2e-5, rtol=1e-4) and not torch.equal(out, output(base, batch))
    path = petl.save(model, tmp_path / "delta.safetensors")
    assert torch.equal(output(petl.load(path, copy.deepcopy(base)), batch), out)
    if name != "grouped":  # which peft doesn't merge
        assert torch.allclose(output(petl.merge(model), batch), out, atol=2e-5, rtol=1e-4)


@pytest.mark.deep
@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=2, target_modules=["qkv"], bias="lora_only"),
        peft.IA3Config(target_modules=["qkv", "fc2"], feedforward_modules=["fc2"]),
    ],
    ids=["some biases", "ia3"],
)
def test_what_petl_writes_again_is_taken_again(config: Any, tmp_path: Path) -> None:
    base, batch = make("vit"), batch_for("vit")
    answers = trained_by_peft(base, config, batch, tmp_path / "one", CLASSES)
    petl.to_peft(petl.from_peft(copy.deepcopy(base), tmp_path / "one"), tmp_path / "two")
    assert torch.allclose(output(petl.from_peft(base, tmp_path / "two"), batch), answers, atol=2e-5, rtol=1e-4)


def test_a_classifier_of_another_size_comes_with_the_adapter(tmp_path: Path) -> None:
    base, batch = make("vit"), batch_for("vit")
    config = peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"])
    answers = trained_by_peft(sized(base, 3), config, batch, tmp_path, 3)
    before = portrait(base)
    model = petl.from_peft(base, tmp_path)
    assert model.num_classes == 3 and torch.allclose(output(model, batch), answers, atol=2e-5)
    assert portrait(petl.unwrap(model)) == before


@pytest.mark.deep
def test_modules_alone(tmp_path: Path) -> None:
    """peft's word for an adapter without layers."""
    base, batch = make("resnet"), batch_for("resnet")
    config = peft.LoraConfig(target_modules="dummy-target-modules", modules_to_save=["fc"])
    answers = trained_by_peft(base, config, batch, tmp_path, CLASSES)
    assert torch.allclose(output(petl.from_peft(base, tmp_path), batch), answers, atol=1e-5)


@pytest.mark.deep
def test_layers_that_are_read_without_being_called(tmp_path: Path) -> None:
    """peft trains nothing there; a change that isn't zero can't come from a training."""
    base, batch = make("swinv2"), batch_for("swinv2")
    answers = trained_by_peft(base, peft.LoraConfig(r=2, target_modules=["qkv", "fc1"]), batch, tmp_path, CLASSES)
    with pytest.warns(UserWarning, match="without calling"):
        model = petl.from_peft(copy.deepcopy(base), tmp_path)
    assert torch.allclose(output(model, batch), answers, atol=2e-5)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    key = next(key for key in tensors if "qkv.lora_B" in key)
    tensors[key] += 1
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(petl.DeltaError, match="doesn't call"):
        petl.from_peft(base, tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    adapter("bias all", folder)
    return folder


def broken(trained: Path, tmp_path: Path, config: dict[str, Any], **tensors: Any) -> Path:
    """A copy of the adapter with other values in its config, and tensors added (or, where None, taken away)."""
    folder = tmp_path / "broken"
    shutil.copytree(trained, folder)
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**values, **config}))
    state = {**load_file(folder / "adapter_model.safetensors"), **tensors}
    save_file({k: v for k, v in state.items() if v is not None}, folder / "adapter_model.safetensors")
    return folder


HEAD = "base_model.model."
HOSTILE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a layer is missing": ({}, {f"{HEAD}blocks.1.attn.qkv.lora_{x}.weight": None for x in "AB"}, "blocks.1.attn.qkv"),
    "half a layer is missing": ({}, {f"{HEAD}blocks.1.attn.qkv.lora_A.weight": None}, "blocks.1.attn.qkv"),
    "the classifier is missing": ({}, {f"{HEAD}head.weight": None}, "head.weight"),
    "a bias is missing": ({}, {f"{HEAD}blocks.1.norm1.bias": None}, "blocks.1.norm1.bias"),
    "a layer too many": ({}, {f"{HEAD}blocks.1.mlp.fc1.lora_A.weight": torch.ones(2, 64)}, "blocks.1.mlp.fc1"),
    "no such layer": ({}, {f"{HEAD}blocks.9.attn.qkv.lora_A.weight": torch.ones(2, 64)}, "blocks.9.attn.qkv"),
    "a weight of the base": ({}, {f"{HEAD}blocks.1.mlp.fc1.weight": torch.ones(192, 64)}, "blocks.1.mlp.fc1"),
    "another shape": ({}, {f"{HEAD}blocks.1.attn.qkv.lora_A.weight": torch.ones(2, 63)}, "blocks.1.attn.qkv"),
    "another rank": ({"r": 5}, {}, "rank 5"),
    "a huge rank": ({"r": 10**5}, {}, "rank"),
    "no rank": ({"r": None}, {}, "rank 8"),
    "a factor beyond any float": ({"lora_alpha": 10**400}, {}, "401 digits"),
    "no prefix": ({}, {"blocks.1.attn.qkv.lora_A.weight": torch.ones(2, 64)}, "base_model.model"),
    "another kind": ({"peft_type": "PREFIX_TUNING"}, {}, "PREFIX_TUNING"),
    "no kind": ({"peft_type": None}, {}, "peft_type"),
    "a changed base": ({"init_lora_weights": "pissa_niter_4"}, {}, "path_initial_model_for_weight_conversion"),
    "a module to import": ({"megatron_config": {"x": 1}, "megatron_core": "os"}, {}, "megatron"),
    "layers repeated": ({"layer_replication": [[0, 2], [1, 3]]}, {}, "layer_replication"),
    "a pattern without end": ({"target_modules": "(a+)+$"}, {}, "target_modules"),
    "odd names": ({"modules_to_save": ["head", "x" * 10**5]}, {}, "modules_to_save"),
    "no such module": ({"modules_to_save": ["head", "norm", "decoder"]}, {}, "decoder"),
    "bias of nothing": ({"bias": 3}, {}, "bias"),
}


@pytest.mark.deep
@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_fit_is_named_and_changes_nothing(name: str, trained: Path, tmp_path: Path) -> None:
    config, tensors, word = HOSTILE[name]
    folder = broken(trained, tmp_path, config, **tensors)
    model = make("vit")
    before = portrait(model)
    with pytest.raises(petl.DeltaError, match=word):
        petl.from_peft(model, folder)
    assert portrait(model) == before


def test_nothing_that_the_config_names_is_used(trained: Path, tmp_path: Path) -> None:
    """Names of modules to import and addresses to fetch are peft's own fields, and are not looked at."""
    names = {"base_model_class": "system", "parent_library": "os"}
    told = {"auto_mapping": names, "base_model_name_or_path": "/etc/passwd", "revision": "x", "task_type": "CAUSAL_LM"}
    assert petl.record(petl.from_peft(make("vit"), broken(trained, tmp_path, told)))


def test_a_pickle_and_folders_without_adapter_are_refused(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(trained, folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(petl.DeltaError, match="pickle"):
        petl.from_peft(make("vit"), folder)
    for place in (tmp_path / "none", tmp_path, trained / "adapter_config.json"):
        with pytest.raises(petl.DeltaError, match=r"folder|adapter_config"):
            petl.from_peft(make("vit"), place)
    (folder / "adapter_config.json").write_text("{'no json")
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    with pytest.raises(petl.DeltaError, match="JSON"):
        petl.from_peft(make("vit"), folder)
