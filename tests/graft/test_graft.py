"""Layers that grow a graft: their numbers, class, copies and pickles."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

import petl
from petl.graft import classes, folding, graft, kinds
from tests.support.compare import differing, state
from tests.support.zoo import disturb

EVERY_LAYER = ("linear", "conv", "depthwise")

# name -> (a layer, images that it takes)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(8, 12), (3, 8)),
    "linear without bias": (lambda: nn.Linear(8, 12, bias=False), (3, 5, 8)),
    "conv": (lambda: nn.Conv2d(3, 8, 3, padding=1), (3, 3, 9, 9)),
    "1x1": (lambda: nn.Conv2d(8, 12, 1), (3, 8, 9, 9)),
    "strided": (lambda: nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(0, 2)), (3, 3, 9, 11)),
    "grouped": (lambda: nn.Conv2d(8, 12, 3, groups=4), (3, 8, 9, 9)),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8, padding=1), (3, 8, 9, 9)),
    "depthwise, multiplied": (lambda: nn.Conv2d(8, 24, 3, groups=8), (3, 8, 9, 9)),
    "dilated": (lambda: nn.Conv2d(3, 8, 3, dilation=2, padding=2), (3, 3, 9, 9)),
    "same as a word": (lambda: nn.Conv2d(3, 8, 4, padding="same"), (3, 3, 9, 9)),
    "reflected": (lambda: nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), (3, 3, 9, 9)),
    "circular, grouped": (lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", groups=2), (3, 8, 9, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1), (3, 8, 5, 5)),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(8, 6, 3, groups=2), (3, 8, 5, 5)),
    "one dimension": (lambda: nn.Conv1d(4, 8, 3), (3, 4, 9)),
    "three dimensions": (lambda: nn.Conv3d(3, 8, 3), (3, 3, 5, 5, 5)),
    "SAME": (lambda: Conv2dSame(3, 8, 3, stride=2), (3, 3, 9, 10)),
    "SAME, depthwise": (lambda: Conv2dSame(8, 8, 5, stride=2, groups=8), (3, 8, 9, 10)),
    "standardised": (lambda: StdConv2d(3, 8, 3), (3, 3, 9, 9)),
    "standardised, SAME": (lambda: StdConv2dSame(3, 8, 3, stride=2), (3, 3, 9, 10)),
    "scaled standardised": (lambda: ScaledStdConv2d(8, 8, 3, groups=4), (3, 8, 9, 9)),
    "scaled standardised, SAME": (lambda: ScaledStdConv2dSame(3, 8, 3, stride=2), (3, 3, 9, 10)),
}


def lora_on(layer: nn.Module, **options) -> nn.Module:
    """The layer itself with a low-rank change that isn't zero."""
    net = nn.Sequential(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        disturb(petl.wrap(net, petl.LoRA(where=EVERY_LAYER, **options), head=False), by=0.3)
    return net[0]


def low_rank(layer: nn.Module) -> Tensor:
    change, weight = 4 * layer.lora.up @ layer.lora.down, layer._parameters["weight"]
    return weight + (into_rows(change, layer) if isinstance(layer, nn.ConvTranspose2d) else change.view(weight.shape))


def into_rows(change: Tensor, conv: nn.Module) -> Tensor:
    """[out, in / groups * h * w] as a transposed convolution's [in, out / groups, h, w], group by group."""
    rows, shape = conv.out_channels // conv.groups, (conv.in_channels // conv.groups, *conv.kernel_size)
    return torch.cat([part.view(rows, *shape).transpose(0, 1) for part in change.split(rows)])


def as_rows(weight: Tensor, conv: nn.Module) -> Tensor:
    """The other way round."""
    parts = weight.split(conv.in_channels // conv.groups)
    return torch.cat([part.transpose(0, 1).flatten(1) for part in parts])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.sweep(15)
def test_lora_on_every_kind_of_layer(name: str, train: bool) -> None:
    """The effective weight by hand, and the class's own forward on it, bit for bit."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer, x = build(), torch.randn(shape)
    by_hand = copy.deepcopy(layer)
    lora_on(layer, rank=2, alpha=8.0).train(train)
    torch.testing.assert_close(layer.weight, low_rank(layer), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        by_hand.weight.copy_(layer.weight)
    assert torch.equal(layer(x), by_hand(x))
    assert not torch.equal(layer.weight, layer._parameters["weight"])


@pytest.mark.parametrize("name", LAYERS)
def test_lora_gradients_by_hand(name: str) -> None:
    """Of the effective weight's gradient in float64: through up and down."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer, x = build().double(), torch.randn(shape, dtype=torch.float64)
    by_hand = copy.deepcopy(layer)
    lora_on(layer, rank=2, alpha=8.0)
    with torch.no_grad():
        by_hand.weight.copy_(layer.weight)
    (layer(x) ** 3).sum().backward()
    (by_hand(x) ** 3).sum().backward()
    whole = by_hand.weight.grad
    whole = as_rows(whole, layer) if isinstance(layer, nn.ConvTranspose2d) else whole.flatten(1)
    torch.testing.assert_close(layer.lora.up.grad, 4 * whole @ layer.lora.down.T)
    torch.testing.assert_close(layer.lora.down.grad, 4 * layer.lora.up.T @ whole)
    assert layer._parameters["weight"].grad is None


@pytest.mark.parametrize("name", LAYERS)
def test_folding_writes_the_tensor_that_forward_used(name: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer, x = build(), torch.randn(shape)
    keys, kind = [*layer.state_dict()], type(layer)
    lora_on(layer, rank=2)
    weight, out = layer.weight.detach().clone(), layer(x)
    folding.fold(layer)
    assert type(layer) is kind and [*layer.state_dict()] == keys
    assert torch.equal(layer.weight, weight) and torch.equal(layer(x), out)
    assert isinstance(layer._parameters["weight"], nn.Parameter)


@pytest.mark.parametrize("name", ["linear", "grouped", "SAME", "scaled standardised"])
def test_the_module_stays_what_it_was(name: str) -> None:
    layer = LAYERS[name][0]()
    kind, keys, weight, held = type(layer), [*layer.state_dict()], layer.weight, layer.bias
    seen: list[str] = []
    layer.register_forward_hook(lambda module, args, out: seen.append("forward"))
    layer.register_forward_pre_hook(lambda module, args: seen.append("before"))
    layer.register_full_backward_hook(lambda module, gin, gout: seen.append("backward"))
    lora_on(layer, rank=2)
    assert (
        isinstance(layer, kind) and type(layer).__name__ == kind.__name__ and type(layer).__module__ == kind.__module__
    )
    assert [key for key in layer.state_dict() if not key.startswith("lora.")] == keys
    assert layer._parameters["weight"] is weight and layer.bias is held
    assert layer.state_dict()["weight"].data_ptr() == weight.data_ptr()
    assert classes.base_class(layer) is kind and classes.is_grafted(layer)
    layer(torch.randn(LAYERS[name][1], requires_grad=True)).sum().backward()
    assert seen == ["before", "forward", "backward"]
    folding.prune(layer)
    assert type(layer) is kind and [*layer.state_dict()] == keys and layer._parameters["weight"] is weight
    assert len(layer._forward_hooks) == 1


def test_equal_surgery_gives_one_class() -> None:
    one, other = lora_on(nn.Linear(4, 9), rank=1), lora_on(nn.Linear(8, 7), rank=2)
    assert type(one) is type(other) is not nn.Linear


@pytest.mark.parametrize("name", ["linear", "grouped", "SAME", "scaled standardised", "transposed"])
def test_copies_and_pickles(name: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer, x = lora_on(build(), rank=2), torch.randn(shape)
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(clone) is type(layer) and torch.equal(clone(x), layer(x))
        disturb(clone, by=1.0)
        assert not torch.equal(clone(x), layer(x))  # nothing is shared
        folding.fold(clone)
        assert type(clone) is classes.base_class(layer)


def test_strict_loading_of_a_superset() -> None:
    layer = lora_on(nn.Linear(4, 6), rank=2)
    fresh = lora_on(nn.Linear(4, 6), rank=2)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh.weight, layer.weight)
    missing, extra = fresh.load_state_dict(nn.Linear(4, 6).state_dict(), strict=False)
    assert {*missing} == {"lora.up", "lora.down"} and not extra


class Double(kinds.WeightGraft):
    """Twice the value."""

    def __init__(self, param: str = "weight"):
        super().__init__()
        self.param = param
        self.by = nn.Parameter(torch.tensor(2.0))

    def change(self, weight: Tensor) -> Tensor:
        return weight * self.by


class PlusOne(Double):
    """One more than the value."""

    def change(self, weight: Tensor) -> Tensor:
        return weight + self.by / 2


def test_grafts_work_in_the_order_in_which_they_grew() -> None:
    layer = nn.Linear(3, 3)
    base = layer.weight.detach().clone()
    graft.grow(layer, "first", Double())
    graft.grow(layer, "second", PlusOne())
    assert torch.equal(layer.weight, base * 2 + 1)
    assert [name for name, _ in kinds.grafts(layer)] == ["first", "second"]
    folding.fold(layer)
    assert torch.equal(layer.weight, base * 2 + 1)
    other = nn.Linear(3, 3)
    other.load_state_dict({"weight": base, "bias": torch.zeros(3)})
    graft.grow(other, "second", PlusOne())
    graft.grow(other, "first", Double())
    assert torch.equal(other.weight, (base + 1) * 2)


def test_a_graft_on_the_bias() -> None:
    layer, x = nn.Linear(3, 3), torch.randn(2, 3)
    base = copy.deepcopy(layer)
    graft.grow(layer, "twice", Double("bias"))
    assert torch.equal(layer.bias, base.bias * 2) and torch.equal(layer.weight, base.weight)
    out = layer(x)
    assert torch.equal(out, nn.functional.linear(x, base.weight, base.bias * 2))
    folding.fold(layer)
    assert torch.equal(layer(x), out) and type(layer) is nn.Linear


class Before(kinds.InputGraft):
    """Adds one to the input."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class After(kinds.OutputGraft):
    """The output and what the parent was given."""

    def forward(self, out: Tensor, *inputs: Tensor) -> Tensor:
        return out + inputs[0]


def test_input_and_output_grafts_go_around_the_forward() -> None:
    layer, x = nn.Linear(3, 3), torch.randn(2, 3)
    plain = copy.deepcopy(layer)
    graft.grow(layer, "after", After())
    graft.grow(layer, "before", Before())
    graft.grow(layer, "weights", Double())
    expected = nn.functional.linear(x + 1, plain.weight * 2, plain.bias) + (x + 1)
    assert torch.equal(layer(x), expected)
    with pytest.raises(petl.SiteError, match=r"after, before.*can't be folded"):
        folding.fold(layer)
    assert torch.equal(layer(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), expected)


def test_arguments_by_name_reach_a_forward_with_grafts_around_it() -> None:
    layer, x = nn.Linear(3, 3), torch.randn(2, 3)
    plain = layer(x)
    graft.grow(layer, "before", Before())
    assert torch.equal(layer(input=x - 1 + 1 - 1), layer(x - 1))
    folding.prune(layer)
    assert torch.equal(layer(input=x), plain)


def test_what_can_not_grow() -> None:
    layer = lora_on(nn.Linear(3, 3), rank=1)
    with pytest.raises(petl.SiteError, match="already has an attribute 'lora'"):
        graft.grow(layer, "lora", Double())
    with pytest.raises(petl.SiteError, match="already has an attribute 'weight'"):
        graft.grow(layer, "weight", Double())
    with pytest.raises(petl.SiteError, match="runs every child"):
        graft.grow(nn.Sequential(nn.Linear(3, 3)), "after", After())
    assert [name for name, _ in kinds.grafts(layer)] == ["lora"]


def test_a_held_module_never_trains() -> None:
    block = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
    graft.hold_in_eval(block)
    block.train()
    assert not any(module.training for module in block.modules())
    assert classes.is_held_in_eval(block) and classes.base_class(block) is nn.Sequential
    clone = pickle.loads(pickle.dumps(block)).train()
    assert not clone[0].training
    folding.prune(block)
    assert all(module.training for module in block.train().modules())


def test_a_held_module_can_take_a_graft_and_stays_still() -> None:
    norm = nn.BatchNorm2d(3)
    graft.hold_in_eval(norm)
    graft.grow(norm, "twice", Double())
    assert classes.is_held_in_eval(norm) and not norm.train().training
    assert torch.equal(norm.weight, torch.full((3,), 2.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_delta_on_a_half_precision_layer_is_rounded_once(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 16).to(dtype)
    base = layer.weight.detach().clone()
    lora_on(layer, rank=2, alpha=8.0)
    assert layer.lora.up.dtype == layer.lora.down.dtype == torch.float32
    expected = torch.addmm(base.float(), layer.lora.up, layer.lora.down, alpha=4.0).to(dtype)
    assert layer.weight.dtype == dtype and torch.equal(layer.weight, expected)
    x = torch.randn(2, 16, dtype=dtype)
    assert layer(x).dtype == dtype
    layer(x).sum().backward()
    assert layer.lora.up.grad.dtype == torch.float32


def test_autocast_does_not_round_the_delta_before_it_is_added() -> None:
    torch.manual_seed(0)
    layer = lora_on(nn.Linear(16, 16), rank=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer.weight
        assert layer(torch.randn(2, 16)).dtype == torch.bfloat16
    assert inside.dtype == torch.float32 and torch.equal(inside, layer.weight)


@pytest.mark.parametrize("name", ["conv", "1x1", "grouped", "standardised", "SAME"])
def test_memory_format_is_kept(name: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer, x = build(), torch.randn(shape).to(memory_format=torch.channels_last)
    layer.to(memory_format=torch.channels_last)
    by_hand = copy.deepcopy(layer)
    lora_on(layer, rank=2)
    if name != "1x1":  # where both formats are one
        assert layer.weight.stride() == layer._parameters["weight"].stride()
    with torch.no_grad():
        by_hand.weight.copy_(layer.weight)
    out = layer(x)
    assert torch.equal(out, by_hand(x))
    folding.fold(layer)
    assert torch.equal(layer(x), out)


def test_moving_and_casting_a_grafted_layer() -> None:
    layer = lora_on(nn.Linear(8, 8), rank=2)
    weight = layer.weight.detach().clone()
    layer.double()
    assert layer.weight.dtype == torch.float64
    torch.testing.assert_close(layer.weight.float(), weight, rtol=1e-5, atol=1e-6)
    assert layer.to("meta").weight.is_meta


def test_writing_to_the_adapted_weight_does_not_silently_go_nowhere() -> None:
    """weight is computed: assigning to it must either reach the base or be refused."""
    layer = lora_on(nn.Linear(4, 4), rank=1)
    before = state(layer)
    try:
        layer.weight = nn.Parameter(torch.zeros(4, 4))
    except (AttributeError, petl.PetlError):
        assert not differing(before, state(layer))
    else:
        assert not layer._parameters["weight"].any()


class Fusing(nn.Module):
    """Like those that timm fuses: it writes to a weight in place, and gives a new module to take its place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.inner(x)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        self.inner.weight.mul_(2)
        new = nn.Linear(4, 4)
        new.weight.copy_(self.inner.weight)
        new.bias.copy_(2 * self.inner.bias)
        return new


def test_a_module_that_fuses_itself_folds_what_is_inside_and_keeps_what_is_around() -> None:
    net = nn.Sequential(Fusing())
    lora_on(net[0].inner, rank=2)
    graft.grow(net[0], "after", After())
    graft.fold_before_fusing(net)
    x = torch.randn(5, 4)
    before = net(x)
    copied = copy.deepcopy(net)
    copied[0] = copied[0].fuse()
    torch.testing.assert_close(copied(x), before)
    assert [name for name, _ in kinds.grafts(copied[0])] == ["after"] and torch.equal(net(x), before)
    graft.grow(net[0].inner, "after", After())
    before = net(x)
    with pytest.raises(petl.StateError, match=r"Fusing.fuse\(\) would lose inner.after"):
        net[0].fuse()
    assert torch.equal(net(x), before)
    assert not hasattr(lora_on(nn.Linear(4, 4)), "fuse")
