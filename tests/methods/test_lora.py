"""LoRA and DoRA by hand, on every kind of layer, whole and in slices."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import petl
from petl.sites.layers import weight_names
from tests.support.zoo import disturb, images, make, output


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_numbers_by_hand(rslora: bool) -> None:
    model = disturb(petl.wrap(make("vit"), "lora", rank=4, alpha=6.0, rslora=rslora, head=False))
    for site in petl.find(model, "linear"):
        layer = model.get_submodule(site.name)
        scale = 6.0 / (math.sqrt(4) if rslora else 4)
        expected = layer._parameters["weight"] + scale * layer.lora.up @ layer.lora.down
        torch.testing.assert_close(layer.weight, expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(layer.weight, layer._parameters["weight"])


def test_dora_numbers_by_hand() -> None:
    """Liu et al. 2024, eq. 5: magnitude times the direction of W + BA, by output row."""
    model = disturb(petl.wrap(make("resnext"), "lora", rank=2, alpha=2.0, dora=True, head=False))
    for site in petl.find(model, "conv"):
        layer = model.get_submodule(site.name)
        base = layer._parameters["weight"].flatten(1)
        direction = base + layer.lora.up @ layer.lora.down
        expected = layer.lora.magnitude * direction / direction.norm(dim=1, keepdim=True)
        torch.testing.assert_close(layer.weight.flatten(1), expected, rtol=1e-5, atol=1e-6)
        assert layer.lora.magnitude.shape == (base.shape[0], 1)


def test_dora_gradients_by_hand() -> None:
    """Liu et al. 2024, section 4.3: the norm is a constant in the backward."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 5)).double(), torch.randn(3, 6, dtype=torch.float64)
    layer = disturb(petl.wrap(net, "lora", rank=2, alpha=2.0, dora=True, head=False), by=0.5)[0]
    up, down, magnitude = (
        p.detach().clone().requires_grad_() for p in (layer.lora.up, layer.lora.down, layer.lora.magnitude)
    )
    direction = layer._parameters["weight"] + up @ down
    weight = magnitude * direction / direction.norm(dim=1, keepdim=True).detach()
    (F.linear(x, weight, layer.bias) ** 3).sum().backward()
    (net(x) ** 3).sum().backward()
    for ours, by_hand in ((layer.lora.up, up), (layer.lora.down, down), (layer.lora.magnitude, magnitude)):
        torch.testing.assert_close(ours.grad, by_hand.grad)


def test_lora_starts_at_zero_change_with_a_live_random_half() -> None:
    base, model = make("swin"), petl.wrap(make("swin"), "lora", head=False)
    assert torch.equal(output(base, images("swin")), output(model, images("swin")))
    for site in petl.find(base, ("linear", "conv")):
        layer = model.get_submodule(site.name)
        assert not layer.lora.up.any() and layer.lora.down.abs().min() > 0


def test_rank_is_capped_at_what_the_weight_can_have() -> None:
    model = petl.wrap(nn.Sequential(nn.Linear(6, 4)), "lora", rank=64, head=False)
    assert model[0].lora.up.shape == (4, 4) and model[0].lora.down.shape == (4, 6)


@pytest.mark.parametrize("name", ["vit", "beit", "swinv2", "eva_fused"])
def test_slices_leave_the_other_rows_bit_equal(name: str) -> None:
    model = disturb(petl.wrap(make(name), "lora", slices="qv", where="*.qkv", head=False))
    sites = petl.record(model).sites[0]
    assert sites
    for site in sites:
        layer = model.get_submodule(site)
        q, k, v = (a != b for a, b in zip(layer.weight.chunk(3), layer._parameters["weight"].chunk(3), strict=True))
        assert q.all() and v.all() and not k.any()
    petl.merge(model)
    base = make(name)
    for site in sites:
        assert torch.equal(model.get_submodule(site).weight.chunk(3)[1], base.get_submodule(site).weight.chunk(3)[1])


def test_slices_choose_separate_projections() -> None:
    model = petl.wrap(make("eva"), "lora", slices="qv", head=False)
    assert {site.rpartition(".")[2] for site in petl.record(model).sites[0]} == {"q_proj", "v_proj"}


def test_slices_where_there_is_nothing_to_slice() -> None:
    with pytest.raises(petl.SiteError, match="attention projections"):
        petl.wrap(make("resnet"), "lora", slices="qv", num_classes=5)


@pytest.mark.parametrize("name", ["beit", "swinv2", "eva_fused"])
def test_lora_reaches_weights_that_are_read_without_their_layer(name: str) -> None:
    model = disturb(petl.wrap(make(name), "lora", where="*.qkv", head=False))
    adapted = output(model, images(name))
    by_hand = make(name)
    for site in petl.record(model).sites[0]:
        with torch.no_grad():
            by_hand.get_submodule(site).weight.copy_(model.get_submodule(site).weight)
    assert torch.equal(output(by_hand, images(name)), adapted)
    assert not torch.equal(adapted, output(make(name), images(name)))


@pytest.mark.deep
@pytest.mark.parametrize("dora", [False, True])
def test_lora_of_a_recurrent_layer_by_hand(dora: bool) -> None:
    """Every matrix of the LSTM has its own change, and the kernel computes with the changed ones."""
    torch.manual_seed(0)
    model = disturb(petl.wrap(make("sequencer"), "lora", rank=2, alpha=2.0, dora=dora, head=False), by=0.3).eval()
    name = "stages.0.blocks.0.rnn_tokens.rnn_v"
    layer, by_hand = model.get_submodule(name), make("sequencer").get_submodule(name)
    assert isinstance(layer, nn.LSTM)
    for param in [n for n, p in by_hand.named_parameters() if p.ndim == 2]:
        graft = getattr(layer, f"lora_{param}")
        weight = by_hand.get_parameter(param).detach() + graft.up @ graft.down
        weight = graft.magnitude * weight / weight.norm(dim=1, keepdim=True) if dora else weight
        with torch.no_grad():
            by_hand.get_parameter(param).copy_(weight)
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(layer(x)[0], by_hand(x)[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(layer(x)[0], make("sequencer").get_submodule(name)(x)[0], atol=1e-3)
    layer(x)[0].square().sum().backward()
    assert all(bool(p.grad.any()) for n, p in layer.named_parameters() if ".up" in n or ".down" in n)
    moved = layer.double()(x.double())[0]  # its list of weights follows the module
    torch.testing.assert_close(moved.float(), by_hand(x)[0], rtol=1e-4, atol=1e-5)


def test_lora_of_experts_by_hand() -> None:
    """Each expert of a CondConv2d has its own low-rank change of [out, in / groups * h * w]."""
    model = disturb(petl.wrap(make("condconv"), "lora", rank=2, alpha=2.0, where="blocks.4.0.*", head=False))
    for leaf in ("conv_pw", "conv_dw"):
        layer = model.get_submodule(f"blocks.4.0.{leaf}")
        assert isinstance(layer, timm.layers.CondConv2d)
        for expert in range(4):
            kernel = layer._parameters["weight"][expert].view(layer.weight_shape).flatten(1)
            expected = kernel + layer.lora.up[expert] @ layer.lora.down[expert]
            torch.testing.assert_close(layer.weight[expert].view(layer.weight_shape).flatten(1), expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_lora_of_a_transposed_convolution_by_hand(groups: int) -> None:
    """Output channels are the rows: the change is a convolution to ``rank`` features, each spread to outputs by ``up``."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(4, 8, 3, stride=2, groups=groups)).double()
    base, x = copy.deepcopy(net[0]), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    layer = disturb(petl.wrap(net, "lora", where="0", rank=2, alpha=2.0, head=False), by=0.3)[0]
    assert layer.lora.up.shape == (8, 2) and layer.lora.down.shape == (2, 4 // groups * 9)
    rows = (layer.lora.up @ layer.lora.down).view(8, 4 // groups, 3, 3)  # [out, in / groups, h, w]
    kernel = torch.cat([rows[i * 8 // groups : (i + 1) * 8 // groups].transpose(0, 1) for i in range(groups)])
    expected = F.conv_transpose2d(x, base.weight + kernel, base.bias, stride=2, groups=groups)
    torch.testing.assert_close(layer(x), expected)


PADDED = {
    "same by name": lambda: nn.Conv2d(3, 4, 3, padding="same"),
    "valid by name": lambda: nn.Conv2d(3, 4, 3, padding="valid"),
    "reflect": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "dilated": lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2, stride=2),
    "grouped": lambda: nn.Conv2d(3, 6, 3, groups=3),
    "SAME": lambda: timm.layers.Conv2dSame(3, 4, 3, stride=2),
    "standardised": lambda: timm.layers.StdConv2d(3, 4, 3),
    "standardised, SAME": lambda: timm.layers.StdConv2dSame(3, 4, 3, stride=2),
    "scaled": lambda: timm.layers.ScaledStdConv2d(3, 4, 3),
    "scaled, SAME": lambda: timm.layers.ScaledStdConv2dSame(3, 4, 3, stride=2),
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 3, stride=2),
    "three axes": lambda: nn.Sequential(nn.Unflatten(2, (1, 12)), nn.Conv3d(3, 4, (1, 3, 3)), nn.Flatten(2, 3)),
}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", PADDED)
def test_lora_on_every_kind_of_convolution(kind: str, dora: bool) -> None:
    """The class's own forward on the changed weight, also after folding, with a gradient for every tensor."""
    torch.manual_seed(0)
    net, x = nn.Sequential(PADDED[kind]()), torch.randn(2, 3, 12, 12)
    roles = ("conv", "depthwise")
    model = disturb(petl.wrap(copy.deepcopy(net), "lora", where=roles, rank=2, dora=dora, head=False), by=0.3)
    layer = next(m for m in model.modules() if hasattr(m, "lora"))
    plain = next(m for m in net.modules() if type(m) is type(layer).__mro__[1] or hasattr(m, "kernel_size"))
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
    before = output(model, x)
    assert torch.equal(before, output(net, x))
    model(x).square().sum().backward()
    assert all(bool(p.grad.any()) for p in petl.trainable(model).values())
    assert torch.equal(output(petl.merge(model), x), before)


@pytest.mark.deep
def test_lora_of_torchs_own_attention() -> None:
    """nn.MultiheadAttention reads its matrices itself: [q | k | v] fused or apart, and the output's without a call."""
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    base = VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)
    nn.init.normal_(base.heads.head.weight)
    x = torch.randn(3, 3, 32, 32)
    report = petl.check(base, x, "lora", rank=2, head="heads")
    assert report.ok, f"\n{report!r}"
    model = petl.wrap(copy.deepcopy(base), "lora", rank=2, head="heads")
    attention = "encoder.layers.encoder_layer_0.self_attention"
    assert {f"{attention}.lora_in_proj_weight.up", f"{attention}.out_proj.lora.up"} <= {*petl.trainable(model)}
    apart = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)
    assert weight_names(apart) == ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
