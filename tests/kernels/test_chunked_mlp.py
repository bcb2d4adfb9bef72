"""Multilayer perceptrons in parts against the plain layers: the same gradients, wherever nobody looks inside."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.layers import Mlp
from torch import Tensor, nn

import petl
from petl.kernels import chunked_mlp
from tests.support.compare import relative
from tests.support.live_bytes import live_bytes
from tests.support.patching import replace
from tests.support.zoo import disturb, gradients, images, make


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Perceptrons of any size go in parts of at most 48 rows here; a list that grows by one number with each."""
    found: list[int] = []
    real = chunked_mlp.chunked_mlp

    def counted(x: Tensor, *layers: Any) -> Tensor:
        found.append(x.shape[:-1].numel())
        return real(x, *layers)

    replace(monkeypatch, chunked_mlp.CHUNK_FROM_BYTES, int("300"))  # another object than each other 300
    replace(monkeypatch, chunked_mlp.CHUNK_BYTES, 2**14)
    replace(monkeypatch, chunked_mlp.chunked_mlp, counted)
    return found


def both(block: nn.Module, methods: object = "lora", **options: Any) -> tuple[nn.Module, nn.Module]:
    """The block before a classifier, adapted: with the cheap steps and with the plain ones, in training mode."""
    net = nn.Sequential(nn.LayerNorm(12), block, nn.Linear(12, 3)).double()
    plain = disturb(petl.wrap(copy.deepcopy(net), methods, head="2", fused=False))
    cheap = petl.wrap(net, methods, head="2", **options)
    cheap.load_state_dict(plain.state_dict())
    return cheap.train(), plain.train()


@pytest.mark.parametrize("shape", [(100, 12), (2, 7, 12), (2, 5, 9, 12), (1, 12)])
@pytest.mark.parametrize("methods", ["lora", ["lora", "bias"]])
def test_gradients_are_those_of_the_plain_layers(methods: object, shape: tuple[int, ...], parts: list[int]) -> None:
    cheap, plain = both(Mlp(12, 40), methods)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(cheap(x), plain(x), rtol=1e-12, atol=1e-12)
    assert relative(gradients(cheap, x), gradients(plain, x)) < 1e-10
    assert parts == [x.shape[:-1].numel()] * 2


@pytest.mark.parametrize("act", [nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish])
def test_activations(act: type[nn.Module], parts: list[int]) -> None:
    block = Mlp(12, 40, bias=False, act_layer=lambda: act(inplace=True) if act is nn.SiLU else act())  # type: ignore[arg-type]
    cheap, plain = both(block)
    x = torch.randn(70, 12, dtype=torch.float64, requires_grad=True)
    assert relative(gradients(cheap, x), gradients(plain, x)) < 1e-10 and parts == [70]


@pytest.mark.parametrize("name", ["vit", "convnext", "swin"])
@pytest.mark.sweep(1)
def test_whole_models(name: str, parts: list[int]) -> None:
    plain = disturb(petl.wrap(make(name).double(), "lora", num_classes=5, fused=False)).train()
    cheap = petl.wrap(make(name).double(), "lora", num_classes=5).train()
    cheap.load_state_dict(plain.state_dict())
    batch = images(name).double().requires_grad_()
    mine, theirs = gradients(cheap, batch), gradients(plain, batch)
    blocks = sum(isinstance(module, Mlp) for module in cheap.modules())
    assert relative(mine, theirs) < 1e-10 and len(parts) == blocks > 0


def test_no_byte_more_is_kept(parts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = petl.wrap(make("convnext"), "lora", num_classes=5).train(), images("convnext")

    def kept() -> int:
        return live_bytes(model, lambda: model(batch).sum(), (batch,))

    in_parts = kept()
    replace(monkeypatch, chunked_mlp.CHUNK_FROM_BYTES, 2**60)
    assert parts and in_parts <= kept()


def test_gradients_twice_and_of_gradients() -> None:
    cheap, plain = both(Mlp(12, 40), ["lora", "bias"])
    x = torch.randn(60, 12, dtype=torch.float64, requires_grad=True)
    found = []
    for model in (cheap, plain):
        given = x.detach().clone().requires_grad_()
        loss = (model(given) ** 2).sum()
        loss.backward(retain_graph=True)
        (slope,) = torch.autograd.grad(loss, given, create_graph=True)
        (slope**2).sum().backward()
        found.append({key: p.grad for key, p in petl.trainable(model).items() if p.grad is not None})
    assert relative(*found) < 1e-10


def test_autocast_rounds_as_the_layers_do(parts: list[int]) -> None:
    cheap, plain = (model.float() for model in both(Mlp(12, 40)))
    x = torch.randn(60, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        mine = gradients(cheap, x)
        assert cheap(x).dtype is torch.bfloat16
    assert len(parts) == 2 and relative(mine, gradients(plain, x)) < 0.05  # bfloat16 has 8 bits


def test_a_base_in_low_precision(parts: list[int]) -> None:
    net = nn.Sequential(nn.LayerNorm(12), Mlp(12, 40), nn.Linear(12, 3))
    rounded = copy.deepcopy(net)
    for fc in (rounded[1].fc1, rounded[1].fc2):
        fc.weight.data = fc.weight.bfloat16().float()
    plain = disturb(petl.wrap(rounded, "lora", head="2", fused=False)).train()
    narrow = petl.wrap(net, "lora", head="2", base_dtype=torch.bfloat16).train()
    with torch.no_grad():
        for key, value in petl.trainable(narrow).items():
            value.copy_(petl.trainable(plain)[key])
    x = torch.randn(60, 12, requires_grad=True)
    assert relative(gradients(narrow, x), gradients(plain, x)) < 1e-5 and parts == [60]  # float32 rounds at 6e-8


@pytest.mark.parametrize(
    "case", ["dropout", "norm", "frozen half", "one layer", "full", "hook", "backward hook", "min"]
)
def test_whatever_else_happens_inside_runs_layer_by_layer(case: str, parts: list[int]) -> None:
    block = Mlp(12, 40, drop=0.5 if case == "dropout" else 0.0, norm_layer=nn.LayerNorm if case == "norm" else None)
    halves = {"frozen half": petl.LoRA(freeze_down=True), "one layer": petl.LoRA(where="1.fc1"), "full": petl.Full()}
    methods = halves.get(case, "lora")
    cheap, plain = both(block, methods, **({"memory": "min"} if case == "min" else {}))
    seen: list[Tensor] = []

    def keep_gradient(module: nn.Module, args: Any, out: Tensor) -> None:
        out.register_hook(seen.append)

    for model in (cheap, plain):
        act = model[1].act  # type: ignore[index]  # it's a Sequential still
        if case == "hook":
            act.register_forward_hook(keep_gradient)
        if case == "backward hook":
            act.register_full_backward_hook(lambda m, ins, outs: seen.append(outs[0]))
    x = torch.randn(60, 12, dtype=torch.float64, requires_grad=True)
    assert relative(gradients(cheap, x), gradients(plain, x)) < 1e-10 and (case == "min" or not parts)
    if "hook" in case:
        torch.testing.assert_close(seen[0], seen[1], rtol=1e-10, atol=1e-12)


def test_convolutions_run_layer_by_layer(parts: list[int]) -> None:
    net = nn.Sequential(Mlp(12, 40, use_conv=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3)).double()
    plain = disturb(petl.wrap(copy.deepcopy(net), "lora", head="3", fused=False)).train()
    cheap = petl.wrap(net, "lora", head="3").train()
    cheap.load_state_dict(plain.state_dict())
    x = torch.randn(2, 12, 6, 6, dtype=torch.float64, requires_grad=True)
    assert relative(gradients(cheap, x), gradients(plain, x)) < 1e-10 and not parts


def test_evaluation_is_bit_equal(parts: list[int]) -> None:
    cheap, plain = both(Mlp(12, 40))
    x = torch.randn(60, 12, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        assert torch.equal(cheap.eval()(x), plain.eval()(x)) and not parts
