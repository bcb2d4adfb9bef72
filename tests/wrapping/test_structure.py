"""The structure of a model tells apart what its tensors don't, and nothing that makes no difference in evaluation."""

from __future__ import annotations

import copy
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
from petl.wrapping.structure import differences, structure, structure_fingerprint

TELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "heads": ("test_vit", {"num_heads": 4}),
    "pooling": ("test_resnet", {"global_pool": "max"}),
    "stride": ("test_resnet", {"output_stride": 16}),
    "activation": ("test_vit", {"act_layer": "relu"}),
    "epsilon": ("test_efficientnet", {"bn_eps": 0.1}),
    "padding": ("test_efficientnet", {"pad_type": "same"}),
    "pooled tokens": ("test_vit", {"global_pool": "avg", "fc_norm": False}),
    "a partial": ("test_vit", {"act_layer": nn.LeakyReLU}),
}
SAME: dict[str, dict[str, Any]] = {
    "drop path": {"drop_path_rate": 0.3},
    "dropout": {"drop_rate": 0.3},
    "classes": {"num_classes": 3},
    "no classes": {"num_classes": 0},
}


@pytest.mark.parametrize("what", TELLS)
def test_equal_tensors_with_another_forward_differ(what: str) -> None:
    name, args = TELLS[what]
    one, other = timm.create_model(name), timm.create_model(name, **args)
    assert [t.shape for t in one.state_dict().values()] == [t.shape for t in other.state_dict().values()]
    assert differences(structure(one), structure(other)) and structure_fingerprint(one) != structure_fingerprint(other)


@pytest.mark.parametrize("what", SAME)
def test_what_evaluation_does_not_see_makes_no_difference(what: str) -> None:
    for name, head in (("test_vit", "head"), ("test_resnet", "fc")):
        one, other = timm.create_model(name), timm.create_model(name, **SAME[what])
        assert structure(one, [head]) == structure(other, [head])


CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "training mode": lambda m: m.train(),
    "checkpointing": lambda m: m.set_grad_checkpointing(True),
    "a forward": lambda m: m(torch.randn(2, 3, 64, 64)),
    "synchronised statistics": lambda m: nn.SyncBatchNorm.convert_sync_batchnorm(m),
    "the meta device": lambda m: m.to("meta"),
    "half precision": lambda m: m.half(),
    "frozen statistics": lambda m: timm.layers.freeze_batch_norm_2d(m),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_leaves_the_function_alone_makes_no_difference(change: str) -> None:
    one, other = timm.create_model("test_resnet"), timm.create_model("test_resnet")
    CHANGES[change](other)
    assert not differences(structure(one), structure(other))


def test_a_later_attribute_makes_no_difference() -> None:
    one, other = timm.create_model("test_vit"), timm.create_model("test_vit")
    for block in other.blocks:
        block.attn.new_in_timm_2 = 7
    assert not differences(structure(one), structure(other))
    other.blocks[0].attn.num_heads = 1
    assert differences(structure(one), structure(other)) == ["num_heads"]


@pytest.mark.deep
def test_the_same_answer_in_another_process() -> None:
    code = f"import timm; from {structure_fingerprint.__module__} import {structure_fingerprint.__name__} as of"
    code += "; print(of(timm.create_model('test_convnext')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == structure_fingerprint(timm.create_model("test_convnext"))


class Counting(nn.Module):
    """A model that keeps a count and the size of its last image, as some do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.heads, self.steps, self.seen = nn.Linear(3, 4), 2, 0, (0, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps, self.seen = self.steps + self.training, tuple(x.shape[2:])
        return self.fc(x.mean((2, 3)) * self.heads)


def test_counters_are_no_structure(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other, changed = Counting(), Counting(), Counting()
    for one in (other, changed):
        one.load_state_dict(model.state_dict())
    petl.wrap(model, "lora", head=False)
    for side in (48, 64):
        model.train()(torch.randn(2, 3, side, side))
    path = petl.save(model, tmp_path / "d.safetensors")
    assert petl.load(path, other) is other
    changed.heads = 3
    with pytest.raises(petl.DeltaError, match="heads differ"):
        petl.load(path, changed)


def test_a_configuration_that_counts_the_classes_is_no_other_structure(tmp_path: Path) -> None:
    """transformers keeps the number of classes, and their names, in a configuration that the modules have."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=10)
    base = transformers.ViTForImageClassification(config)
    model = petl.wrap(copy.deepcopy(base), "lora", head="classifier", num_classes=4).eval()
    path, x = petl.save(model, tmp_path / "d.safetensors"), torch.randn(2, 3, 32, 32)
    other = transformers.ViTForImageClassification(transformers.ViTConfig(**{**config.to_dict(), "hidden_act": "relu"}))
    other.load_state_dict(base.state_dict())
    with pytest.raises(petl.DeltaError, match="differ"):
        petl.load(path, other)
    assert torch.equal(petl.load(path, base).eval()(x).logits, model(x).logits)
