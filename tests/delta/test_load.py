"""`petl.load`: the same bits elsewhere, on a base that is passed or built."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import petl
from petl.methods import registry
from tests.support.compare import differing, state
from tests.support.trained import WAYS, trained
from tests.support.zoo import disturb, images, make, output


@pytest.mark.sweep(2)
@pytest.mark.parametrize("way", WAYS)
def test_the_same_bits_on_a_fresh_base(way: str, tmp_path: Path) -> None:
    methods, name, channels = WAYS[way]
    model, batch = trained(name, methods, channels), images(name, channels)
    path = petl.save(model, tmp_path / "d.safetensors")
    again = petl.load(path, base := make(name))
    assert again is base
    assert not differing(state(model), state(again))
    out, other = model(batch), again(batch)
    pairs = zip(*((t if isinstance(t, tuple) else (t,)) for t in (out, other)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert petl.record(again).methods == petl.record(model).methods
    assert petl.record(again).sites == petl.record(model).sites
    assert {*petl.trainable(again)} == {*petl.trainable(model)}
    assert petl.in_chans(again) == channels
    petl.unwrap(again)
    assert not differing(state(again), state(make(name)))


@pytest.mark.parametrize("way", ["seed case", "bias", "adapter"])
@pytest.mark.sweep(1)
def test_training_goes_on_after_loading_as_if_nothing_had_been(way: str, tmp_path: Path) -> None:
    methods, name, channels = WAYS[way]
    model = trained(name, methods, channels)
    again = petl.load(petl.save(model, tmp_path / "d.safetensors"), make(name))
    for one in (model, again):
        one.train()
        torch.manual_seed(0)  # stochastic depth
        optimizer = torch.optim.SGD(petl.trainable(one).values(), lr=0.1)
        (one(images(name, channels)) ** 2).sum().backward()
        optimizer.step()
    assert not differing(state(model), state(again))


FRESH = """
import sys, torch, petl
from tests.support.zoo import images, make, output
model = petl.load(sys.argv[1], make("swinv2"))
torch.save(output(model, images("swinv2")), sys.argv[2])
torch.save(output(petl.merge(model), images("swinv2")), sys.argv[3])
"""


@pytest.mark.deep
def test_the_same_bits_in_a_fresh_process(tmp_path: Path) -> None:
    model = trained("swinv2", ["norm", "bias", petl.LoRA(rank=2)])
    path = petl.save(model, tmp_path / "d.safetensors")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    answers = [tmp_path / "loaded.pt", tmp_path / "merged.pt"]
    subprocess.run([sys.executable, "-c", FRESH, path, *answers], check=True, env=environment)
    expected = output(model, images("swinv2"))
    assert all(torch.equal(torch.load(answer), expected) for answer in answers)


def test_load_builds_the_backbone_by_its_recorded_name(tmp_path: Path) -> None:
    """Weights drawn with a seed stand for pretrained ones."""
    torch.manual_seed(3)
    model = petl.wrap(timm.create_model("test_vit", img_size=96, num_classes=4), "lora")
    disturb(model).eval()
    path = petl.save(model, tmp_path / "d.safetensors")
    torch.manual_seed(3)
    again = petl.load(path, pretrained=False)
    x = torch.randn(2, 3, 96, 96)
    assert torch.equal(output(again, x), output(model, x))
    with pytest.raises(petl.DeltaError, match="digest"):
        petl.load(path, pretrained=False)  # other random weights


def test_create_args_are_recorded_and_used(tmp_path: Path) -> None:
    torch.manual_seed(3)
    args = {"global_pool": "avg", "class_token": False}
    model = petl.wrap(timm.create_model("test_vit", num_classes=4, **args), "lora", create_args=args)
    path = petl.save(model, tmp_path / "d.safetensors")
    assert petl.read(path)["backbone"]["args"] == args
    torch.manual_seed(3)
    again = petl.load(path, pretrained=False)
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(output(again, x), output(model, x))


def test_a_base_with_other_channels_is_built_with_them(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = petl.wrap(timm.create_model("test_resnet", in_chans=6, num_classes=4), "bn")
    path = petl.save(model, tmp_path / "d.safetensors")
    assert petl.read(path)["backbone"]["in_chans"] == 6
    torch.manual_seed(3)
    again = petl.load(path, pretrained=False)
    assert torch.equal(output(again, torch.ones(2, 6, 64, 64)), output(model, torch.ones(2, 6, 64, 64)))


def test_models_without_a_timm_name_want_to_be_passed(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    base = resnet18()
    model = disturb(petl.wrap(copy.deepcopy(base), ["bn", "lora"], head="fc", num_classes=4))
    path = petl.save(model, tmp_path / "d.safetensors")
    with pytest.raises(petl.DeltaError, match=r"petl\.load\(path, model\)"):
        petl.load(path)
    x = torch.randn(2, 3, 64, 64)
    again = petl.load(path, copy.deepcopy(base))
    assert again.fc.out_features == 4
    assert torch.equal(output(again, x), output(model, x))


def test_a_classifier_of_another_size_on_the_new_base_is_no_matter(tmp_path: Path) -> None:
    model = trained("vit", "lora")
    path = petl.save(model, tmp_path / "d.safetensors")
    base = make("vit")
    base.reset_classifier(77)
    assert torch.equal(output(petl.load(path, base), images("vit")), output(model, images("vit")))


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_half_precision_base_with_a_float32_delta(name: str, tmp_path: Path) -> None:
    base = make(name).bfloat16()
    model = disturb(petl.wrap(copy.deepcopy(base), "lora", num_classes=5)).eval()
    batch = images(name).bfloat16()
    out = output(model, batch)
    path = petl.save(model, tmp_path / "d.safetensors")
    dtypes = {key.rpartition(".")[2]: t.dtype for key, t in load_file(path).items() if "lora" in key}
    assert dtypes == {"up": torch.float32, "down": torch.float32}
    assert out.dtype == torch.bfloat16 and torch.equal(output(petl.load(path, copy.deepcopy(base)), batch), out)
    with pytest.raises(petl.DeltaError, match="digest"):
        petl.load(path, make(name))


def test_channels_last_models(tmp_path: Path) -> None:
    base = make("resnet").to(memory_format=torch.channels_last)
    batch = images("resnet").to(memory_format=torch.channels_last)
    model = disturb(petl.wrap(copy.deepcopy(base), ["bn", "lora", "partial"], num_classes=5)).eval()
    path = petl.save(model, tmp_path / "d.safetensors")
    again = petl.load(path, base)
    assert torch.equal(output(again, batch), output(model, batch))
    assert again.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not differing(state(petl.load(path, make("resnet"))), state(model)), "the layout is no part of the base"


def test_a_parameter_unfrozen_by_hand_is_saved_and_comes_back(tmp_path: Path) -> None:
    model = petl.wrap(make("vit"), "lora", num_classes=5)
    model.cls_token.requires_grad_(True)
    model.blocks[1].norm1.weight.requires_grad_(True)
    disturb(model).eval()
    path = petl.save(model, tmp_path / "d.safetensors")
    assert {"cls_token", "blocks.1.norm1.weight"} <= {*load_file(path)}
    again = petl.load(path, make("vit"))
    assert not differing(state(again), state(model))
    assert {*petl.trainable(again)} == {*petl.trainable(model)}
    assert petl.load(petl.save(again, tmp_path / "e.safetensors"), make("vit"))
    petl.unwrap(again)
    assert not differing(state(again), state(make("vit")))


def test_a_third_party_method(tmp_path: Path) -> None:
    @petl.register("tests-gate")
    @dataclass(frozen=True, kw_only=True)
    class Gate(petl.Method):
        """A factor on what each block returns."""

        where: petl.Where = "block"
        start: float = 1.0

        def adapt(self, module: nn.Module, site: petl.Site) -> None:
            petl.grow(module, "gate", Factor(self.start))

    class Factor(petl.OutputGraft):
        """The factor."""

        def __init__(self, start: float):
            super().__init__()
            self.by = nn.Parameter(torch.tensor(start))

        def forward(self, out: Tensor, *inputs: Tensor) -> Tensor:
            return out * self.by

    model = disturb(petl.wrap(make("vit"), ["tests-gate", "lora"], num_classes=5))
    path = petl.save(model, tmp_path / "d.safetensors")
    again = petl.load(path, make("vit"))
    assert torch.equal(output(again, images("vit")), output(model, images("vit")))
    del registry._REGISTRY["tests-gate"]
    with pytest.raises(petl.DeltaError, match="tests-gate"):
        petl.load(path, make("vit"))


def test_attention_biases_that_eval_mode_caches(tmp_path: Path) -> None:
    """LeViT keeps gathered attention biases from one eval forward to the next: no verb may leave an old one behind."""
    base, x = make("levit"), images("levit")
    expected = output(base, x)
    model = petl.wrap(base, "full")
    disturb(model, by=0.3)
    model.train().eval()
    with torch.no_grad():
        adapted = model(x)
        path = petl.save(model, tmp_path / "d.safetensors")
        fresh = make("levit").eval()
        fresh(x)
        petl.load(path, fresh)
        torch.testing.assert_close(fresh(x), adapted, rtol=0, atol=0)
        petl.unwrap(model)
        assert torch.equal(model(x), expected)
