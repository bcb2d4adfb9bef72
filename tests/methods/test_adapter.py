"""Adapters after, beside and inside of blocks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import petl
from tests.support.compare import differing, state
from tests.support.zoo import disturb, images, make, output


def test_adapter_shapes_of_tokens_and_maps() -> None:
    tokens = petl.wrap(make("vit"), "adapter", bottleneck=5, head=False).blocks[0].adapter.parts["0"]
    assert isinstance(tokens.down, nn.Linear) and tokens.down.weight.shape == (5, 64)
    first = petl.wrap(make("convnext"), "adapter", kernel=5, head=False)
    grafted = [m for m in first.modules() if hasattr(m, "adapter")]
    assert all(not m.adapter.parts["0"].last and m.adapter.parts["0"].down.kernel_size == (5, 5) for m in grafted)
    last = petl.wrap(make("swin"), "adapter", head=False)
    assert all(m.adapter.parts["0"].last for m in last.modules() if hasattr(m, "adapter"))


@pytest.mark.parametrize("name", ["swin", "mambaout", "convnext", "vit"])
def test_adapter_output_by_hand(name: str) -> None:
    """The adapted block gives block + scale * up(gelu(down(block))), channels last by way of a permutation."""
    torch.manual_seed(0)
    model = disturb(petl.wrap(make(name), "adapter", scale=0.5, head=False), by=0.3).eval()
    site = petl.record(model).sites[0][0]
    block, seen = model.get_submodule(site), []
    block.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        model(images(name))
        part, (x, out) = block.adapter.parts["0"], seen[0]
        plain = make(name).get_submodule(site)(x)
        last = name in ("swin", "mambaout")
        moved = plain.permute(0, 3, 1, 2) if last else plain
        if name != "vit":
            width = part.down.out_channels
            moved = F.conv2d(moved, part.down.weight, part.down.bias, padding=1, groups=width)
            change = F.conv2d(F.gelu(moved), part.up.weight, part.up.bias)
        else:
            change = part.up(F.gelu(part.down(moved)))
        change = change.permute(0, 2, 3, 1) if last else change
    torch.testing.assert_close(out, plain + 0.5 * change, rtol=1e-4, atol=1e-5)
    assert not torch.equal(out, plain)


def test_parallel_adapter_reads_the_input() -> None:
    torch.manual_seed(0)
    model = disturb(petl.wrap(make("vit"), "adapter", where="mlp", parallel=True, scale=0.1, head=False), by=0.3).eval()
    mlp, plain = model.blocks[0].mlp, make("vit").blocks[0].mlp
    x = torch.randn(2, 5, 64)
    part = mlp.adapter.parts["0"]
    with torch.no_grad():
        expected = plain(x) + 0.1 * part.up(F.gelu(part.down(x)))
    torch.testing.assert_close(mlp(x), expected, rtol=1e-5, atol=1e-6)


def test_adapters_on_every_tensor_of_a_block_that_returns_several() -> None:
    """TNT's blocks hand on pixels and patches; behind the last one nobody reads the pixels."""
    model = petl.wrap(make("tnt"), "adapter", head=False)
    assert [{*m.adapter.parts} for m in model.blocks] == [{"0", "1"}, {"1"}]
    base = output(make("tnt"), images("tnt"))
    assert torch.equal(output(model, images("tnt")), base)
    for part in ("0", "1"):
        one = copy.deepcopy(model)
        with torch.no_grad():
            one.blocks[0].adapter.parts[part].up.bias.normal_()
        assert not torch.equal(output(one, images("tnt")), base)


def test_adapter_can_not_be_merged_and_says_why() -> None:
    model = petl.wrap(make("vit"), ["lora", "adapter"], num_classes=5)
    before = state(model)
    with pytest.raises(petl.StateError, match="nonlinear"):
        petl.merge(model)
    assert not differing(before, state(model)) and petl.record(model)
