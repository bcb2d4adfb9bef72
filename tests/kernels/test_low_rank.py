"""The fused low-rank path against the plain one: equal forward, equal gradients, under every way of running a model."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import petl
from petl.graft.classes import fast_paths
from tests.support.compare import relative
from tests.support.zoo import gradients

CONVS = {
    "1x1 with strides": {"kernel_size": 1, "stride": (2, 3)},
    "3x3": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "uneven": {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2)},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "1x1": {"kernel_size": 1},
}


def pair(model: nn.Module, methods="lora", **options) -> tuple[nn.Module, nn.Module]:
    """The same adapted model twice, with a delta that isn't zero: with cheap training steps, and plain."""
    plain = petl.wrap(copy.deepcopy(model), methods, head=False, fused=False, **options)
    petl.wrap(model, methods, head=False, **options)
    with torch.no_grad():
        for parameter in petl.trainable(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    plain.load_state_dict(model.state_dict())
    return model, plain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS.keys())
def test_convolution_matches_the_plain_path(conv, bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 24, bias=bias, **conv), nn.Conv2d(24, 24, bias=bias, **conv)).double()
    methods = ["lora", "bias"] if bias else "lora"
    fused, plain = pair(model, methods)
    x = torch.randn(2, 3, 20, 20, dtype=torch.float64, requires_grad=True)
    assert all(fast_paths(layer) for layer in fused) and not any(fast_paths(layer) for layer in plain)
    assert torch.equal(fused(x), plain(x))
    assert relative(gradients(fused, x), gradients(plain, x)) < 1e-10


@pytest.mark.parametrize("shape", [(4, 5), (16, 3), (7,), (1,)], ids=str)
def test_linear_matches_the_plain_path(shape):
    torch.manual_seed(0)
    fused, plain = pair(nn.Sequential(nn.Linear(20, 30), nn.GELU(), nn.Linear(30, 40)).double(), ["lora", "bias"])
    x = torch.randn(*shape, 20, dtype=torch.float64, requires_grad=True)
    assert torch.equal(fused(x), plain(x))
    assert relative(gradients(fused, x), gradients(plain, x)) < 1e-10


@pytest.mark.parametrize("arch", ["test_vit", "test_resnet", "test_convnext"])
@pytest.mark.sweep(1)
def test_model_matches_the_plain_path(arch):
    torch.manual_seed(0)
    fused, plain = pair(timm.create_model(arch).double(), rank=4)
    x = torch.randn(3, 3, 96 if arch != "test_vit" else 160, 96 if arch != "test_vit" else 160, dtype=torch.float64)
    fused.train(), plain.train()
    torch.testing.assert_close(fused(x), plain(x), rtol=1e-10, atol=1e-12)  # a folded norm rounds in another order
    one, other = gradients(fused, x), gradients(plain, x)
    alive = [k for k in other if other[k].norm() > 0]  # zero gains of an untrained model pass no gradient
    assert len(alive) > 5
    assert relative({k: one[k] for k in alive}, {k: other[k] for k in alive}) < 1e-10


def test_the_whole_weights_gradient_is_never_made():
    """A weight that trains anyway needs its dense gradient: then the plain path runs."""
    model = petl.wrap(nn.Sequential(nn.Linear(20, 30)), ["full", "lora"], head=False)
    model(torch.randn(2, 20)).sum().backward()
    assert model[0]._parameters["weight"].grad is not None
    frozen = petl.wrap(nn.Sequential(nn.Linear(20, 30)), "lora", head=False)
    frozen(torch.randn(2, 20)).sum().backward()
    assert frozen[0]._parameters["weight"].grad is None


def test_fused_false_selects_the_plain_path():
    model = petl.wrap(timm.create_model("test_vit"), "lora", fused=False)
    assert not any("forward" in vars(way) for module in model.modules() for way in fast_paths(module))


def test_gradient_checkpointing_gives_the_same_bits():
    torch.manual_seed(0)
    model, _ = pair(timm.create_model("test_vit"))
    x = torch.randn(2, 3, 160, 160)
    kept = gradients(model, x)
    model.set_grad_checkpointing(True)
    again = gradients(model, x)
    assert all(torch.equal(kept[k], again[k]) for k in kept)


def test_per_sample_gradients_by_torch_func_add_up():
    torch.manual_seed(0)
    model, _ = pair(nn.Sequential(nn.Conv2d(3, 24, 3), nn.Flatten(), nn.Linear(24 * 36, 40)).double())
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    delta = {k: p.detach() for k, p in petl.trainable(model).items()}

    def loss(delta, one):
        return (functional_call(model, delta, (one[None],)) ** 2).sum()

    each = vmap(grad(loss), in_dims=(None, 0))(delta, x)
    assert relative({k: g.sum(0) for k, g in each.items()}, gradients(model, x)) < 1e-10


def test_autocast_rounds_no_more_than_the_plain_path():
    """bfloat16 has 8 bits: both paths are a few percent from float32, the fused one no farther than the plain one by half."""
    torch.manual_seed(0)
    fused, plain = pair(timm.create_model("test_vit"))
    x = torch.randn(4, 3, 160, 160)
    exact = gradients(fused, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one, other = fused(x), plain(x)
        assert torch.equal(one, other)
        mine, theirs = relative(gradients(fused, x), exact), relative(gradients(plain, x), exact)
    assert mine < 1.5 * theirs < 0.15
    assert all(p.grad.dtype == torch.float32 for p in petl.trainable(fused).values())


@pytest.mark.deep
def test_compiles_without_a_graph_break():
    torch.manual_seed(0)
    model, _ = pair(nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 1)))
    x = torch.randn(2, 3, 8, 8)
    eager = gradients(model, x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    model.zero_grad()
    (compiled(x) ** 2).sum().backward()
    assert all(torch.allclose(p.grad, eager[k], rtol=1e-5, atol=1e-6) for k, p in petl.trainable(model).items())


def test_a_shared_module_is_used_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(20, 20)

        def forward(self, x):
            return self.layer(self.layer(x))

    torch.manual_seed(0)
    fused, plain = pair(Twice().double())
    x = torch.randn(4, 20, dtype=torch.float64)
    assert relative(gradients(fused, x), gradients(plain, x)) < 1e-10
