"""Convolutions as products against torch's own: the same numbers and gradients, up to rounding."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

import petl
from petl.kernels.matmul_convs import GroupedConv2d, PointwiseConv2d
from tests.support.compare import relative

LAYERS = {
    "grouped": lambda: GroupedConv2d(32, 4, 3),
    "grouped, kernel of 5": lambda: GroupedConv2d(40, 4, 5),
    "grouped, kernel of 1": lambda: GroupedConv2d(12, 4, 1),
    "hardly fewer channels": lambda: GroupedConv2d(8, 4, 3),
    "pointwise": lambda: PointwiseConv2d(4, 32),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_numbers_and_gradients_are_those_of_the_convolution(name: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    x = torch.randn(3, layer.in_channels, 7, 5, dtype=torch.float64).to(memory_format=layout).requires_grad_()

    def results(out: Tensor) -> dict[str, Tensor]:
        inputs = (x, layer.weight, layer.bias)
        first = torch.autograd.grad((out**2).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), inputs)
        return {str(i): t.detach() for i, t in enumerate((out, *first, *second))}

    mine, theirs = results(layer(x)), results(nn.Conv2d.forward(layer, x))
    assert all(mine[k].shape == theirs[k].shape for k in theirs)
    assert relative(mine, theirs) < 1e-12


@pytest.mark.parametrize("name", LAYERS)
def test_in_16_bits_the_convolution_itself_runs(name: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]()
    x = torch.randn(2, layer.in_channels, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), nn.Conv2d.forward(layer, x))
    layer, x = layer.bfloat16(), x.bfloat16()
    assert torch.equal(layer(x), nn.Conv2d.forward(layer, x))


@pytest.mark.deep
@pytest.mark.parametrize("name", LAYERS)
def test_compiled_and_exported(name: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    x = torch.randn(2, layer.in_channels, 6, 6, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},)).module()
    for run in (compiled, exported):
        torch.testing.assert_close(run(x), layer(x), rtol=1e-12, atol=1e-12)
    assert exported(x.repeat(2, 1, 1, 1)).shape[0] == 4
    torch.compiler.reset()


def test_adapters_of_feature_maps_are_made_of_them() -> None:
    model = petl.wrap(timm.create_model("test_resnet"), "adapter")
    kinds = {type(module) for name, module in model.named_modules() if ".adapter." in name}
    assert {GroupedConv2d, PointwiseConv2d} <= kinds and nn.Conv2d not in kinds


def test_an_adapter_on_feature_maps_can_be_traced() -> None:
    """``torch.jit.trace``, and ONNX without dynamo on top of it, gave ``fold`` sizes that are tensors."""
    model = petl.wrap(timm.create_model("test_resnet"), "adapter", num_classes=5)
    for name, parameter in petl.trainable(model).items():
        torch.manual_seed(len(name))
        torch.nn.init.normal_(parameter, std=0.05)
    x = torch.randn(2, 3, 64, 64)
    traced = torch.jit.trace(model.eval(), x, check_trace=False)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), model(x))
        torch.testing.assert_close(traced(x[:1]), model(x[:1]))
