"""Promises to timm's own tools and to torchvision: reparameterisation, checkpointing, other libraries' models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn
from torch.utils._pytree import tree_leaves

import petl
from tests.support.zoo import disturb, images, lively, make, output

EVERY_LAYER = ("linear", "conv", "depthwise")
LEVIT = {"embed_dim": (16, 32, 48), "num_heads": (1, 2, 3), "depth": (1, 1, 1), "key_dim": 8}

# name -> (timm name, image size, further arguments): nets that timm can reparameterise
FUSING: dict[str, tuple[str, int, dict[str, Any]]] = {
    "repvgg": ("repvgg_a0", 32, {}),
    "mobileone": ("mobileone_s0", 32, {}),
    "fastvit": ("fastvit_t8", 64, {}),
    "repvit": ("repvit_m0_9", 64, {}),
    "repghost": ("repghostnet_050", 32, {}),
    "lcnetv2": ("lcnetv2_small", 32, {}),
    "levit": ("levit_128s", 224, LEVIT),
    "efficientvim": ("efficientvim_m1", 64, {}),  # writes to the weights in place
    "iformer": ("iformer_t", 64, {}),  # drops modules with a norm that an adapter sits on
}


FUSED = [(name, methods) for name in FUSING for methods in ("lora", "norm", "adapter")]
FUSED += [(name, "input") for name in ("repvgg", "mobileone", "fastvit", "efficientvim")]  # stems that fuse, and not
FUSED += [(name, "bias") for name in ("repvgg", "levit")]


@pytest.mark.sweep(1)
@pytest.mark.parametrize(("name", "methods"), FUSED)
def test_timm_reparameterises_with_the_delta_attached(name: str, methods: str) -> None:
    """The fused net equals the adapted one as closely as timm's own fusing is exact, and not the base; else one clear error."""
    architecture, size, arguments = FUSING[name]
    if not timm.is_model(architecture):
        pytest.skip(f"{architecture} is not in timm {timm.__version__}")
    torch.manual_seed(0)
    base = lively(timm.create_model(architecture, num_classes=11, **arguments), size)
    options = {"lora": {"where": EVERY_LAYER, "rank": 2}, "input": {"in_chans": 2}}.get(methods, {})
    model = disturb(petl.wrap(copy.deepcopy(base), methods, **options), by=0.02 if name == "iformer" else 0.1)
    x = torch.randn(2, petl.in_chans(model), size, size)
    expected = output(model, x)
    if (name, methods) == ("iformer", "adapter"):
        with pytest.raises(petl.StateError, match=r"fuse\(\) would lose bn.adapter.*'lora'"):
            reparameterize_model(model)
        return
    fused = reparameterize_model(model)
    torch.testing.assert_close(output(fused, x), expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    assert torch.equal(output(model, x), expected)
    if methods != "input":
        assert float((output(base, x) - expected).abs().max()) > 0.01 * float(expected.std())


@pytest.mark.sweep(2)
@pytest.mark.parametrize("methods", [["lora", "norm"], ["adapter", "bias"]])
@pytest.mark.parametrize("name", ["vit", "beit", "swin", "convnext", "resnet", "efficientnet", "levit", "mambaout"])
def test_checkpointing_gives_the_same_gradients(name: str, methods: list[str]) -> None:
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = disturb(petl.wrap(make(name), methods, num_classes=5)).train()
        model.set_grad_checkpointing(checkpointing)  # type: ignore[operator]
        torch.manual_seed(1)
        sum(t.square().mean() for t in tree_leaves(model(images(name)))).backward()  # type: ignore[union-attr]
        grads.append({key: p.grad for key, p in petl.trainable(model).items()})
    assert all(g is not None for g in grads[0].values())
    for key, grad in grads[0].items():
        torch.testing.assert_close(
            grads[1][key], grad, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )


def _resnet() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=11)


def _mobilenet() -> nn.Module:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    blocks = [(16, 3, 16, 16, True, "RE", 2, 1, 1.0), (16, 5, 48, 24, True, "HS", 2, 1, 1.0)]
    return MobileNetV3([InvertedResidualConfig(*block) for block in blocks], 32, num_classes=11)


def _regnet() -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    blocks = BlockParams.from_init_params(depth=4, w_0=16, w_a=16.0, w_m=2.0, group_width=8, se_ratio=0.25)
    return RegNet(blocks, num_classes=11, stem_width=8)


def _vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=11)


def _swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=11)


class Plain(nn.Module):
    """A user's own net, which knows nothing of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8))
        self.top = nn.Linear(8, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.top(self.features(x).mean((2, 3)))


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=11)


def _efficientnet() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

    blocks = [FusedMBConvConfig(2, 3, 2, 8, 8, 1), MBConvConfig(2, 3, 2, 8, 16, 2)]
    return EfficientNet(blocks, dropout=0.2, num_classes=11, last_channel=32)


def _densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(8, (2, 2), 16, num_classes=11)


OTHERS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "resnet": (_resnet, "fc", 64),
    "vit": (_vit, "heads", 32),
    "swin": (_swin, "head", 32),
    "mobilenet": (_mobilenet, "classifier", 64),
    "regnet": (_regnet, "fc", 64),
    "convnext": (_convnext, "classifier", 32),
    "efficientnet": (_efficientnet, "classifier", 64),
    "densenet": (_densenet, "classifier", 64),
    "plain": (Plain, "top", 32),
}
METHODS: dict[str, dict[str, Any]] = {
    "probe": {}, "bn": {}, "norm": {}, "lora": {"rank": 2}, "adapter": {}, "input": {"in_chans": 4}, "bias": {},
    "full": {},
}  # fmt: skip
REFUSED = {("vit", "bn"), ("swin", "bn"), ("convnext", "bn"), ("plain", "adapter")}


@pytest.mark.deep
@pytest.mark.parametrize("name", OTHERS)
def test_models_of_others_keep_the_contract(name: str) -> None:
    """Every method on models without timm's contract, with the classifier named by hand."""
    build, head, size = OTHERS[name]
    torch.manual_seed(0)
    base = lively(build(), size)
    for method, options in METHODS.items():
        batch = torch.randn(3, petl.in_chans(base) if method != "input" else 4, size, size)
        try:
            report = petl.check(base, batch, method, head=head, num_classes=5, **options)
        except petl.SiteError as error:
            assert (name, method) in REFUSED, f"{name} {method}: {error}"
            continue
        assert report.ok, f"{name} {method}\n{report!r}"


@pytest.mark.parametrize("name", ["vit", "nfnet"])
def test_batchnorm_tuning_without_batchnorm_names_what_works(name: str) -> None:
    with pytest.raises(petl.SiteError, match="norm.*bias.*lora") as caught:
        petl.wrap(make(name), "bn")
    for method in ("norm", "bias", "lora"):
        has = not (name == "nfnet" and method == "norm")
        assert (f"'{method}'" in str(caught.value)) or not has
