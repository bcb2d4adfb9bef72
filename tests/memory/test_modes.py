"""Cheap training steps against the plain ones: the same gradients, fewer bytes; evaluation doesn't notice."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import petl
from petl.graft.classes import fast_paths
from petl.graft.kinds import PAIRED_NORM
from petl.kernels import max_pool, relu_mask
from petl.memory import recompute
from petl.memory.checkpointed_blocks import CheckpointedBlock
from petl.memory.fused_layers import FusedLinear
from petl.memory.modes import MEMORY_MODES
from petl.memory.recomputed_layers import RecomputeScope
from tests.support.live_bytes import Storages, kept
from tests.support.zoo import disturb, images, make, output

ARCHITECTURES = [
    "vit",
    "resnet",
    "efficientnet",
    "efficientnet_same",
    "convnext",
    "swin",
    "densenet",
    "mambaout",
]


NORMS = petl.BN(stats="keep")


def twins(
    name: str, methods: object, memory: str, *, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, nn.Module]:
    """The same adapted, disturbed model with the cheap steps and with the plain ones, in training mode."""
    base = make(name).to(dtype)
    plain = disturb(petl.wrap(copy.deepcopy(base), methods, num_classes=7, fused=False))
    cheap = petl.wrap(base, methods, num_classes=7, memory=memory)
    cheap.load_state_dict(plain.state_dict())
    return cheap.train(), plain.train()


def step(model: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output and all gradients of one training step; dropout draws the same numbers each time."""
    torch.manual_seed(0)
    model.zero_grad()
    out = model(batch)
    out = out[0] + out[1] if isinstance(out, tuple) else out
    (out**2).sum().backward()
    return out.detach(), {key: p.grad.clone() for key, p in petl.trainable(model).items() if p.grad is not None}


def close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-10) -> bool:
    """Whether gradients differ by rounding only, in units of each tensor's norm."""
    norms = {key: float(value.norm()) for key, value in other.items()}
    least = 1e-9 * max(norms.values())  # biases before a norm have no gradient but rounding
    return one.keys() == other.keys() and all(
        float((one[k] - other[k]).norm()) <= tolerance * max(norms[k], least) for k in other
    )


@pytest.mark.sweep(6)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_are_those_of_the_plain_layers(name: str, memory: str) -> None:
    methods = [petl.LoRA(rank=2, where=("linear", "conv", "depthwise")), "bias"]
    cheap, plain = twins(name, methods, memory)
    batch = images(name).double()
    (out, mine), (expected, theirs) = step(cheap, batch), step(plain, batch)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    assert close(mine, theirs)


OTHERS = ["norm", "adapter", NORMS, petl.BN(), "partial", "full", "input", ["lora", NORMS], ["lora", petl.BN()]]


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", ["resnet", "efficientnet"])
@pytest.mark.parametrize("methods", OTHERS, ids=str)
def test_gradients_of_other_methods(methods: object, name: str) -> None:
    for memory in MEMORY_MODES:
        cheap, plain = twins(name, methods, memory)
        batch = images(name, 1 if methods == "input" else 3).double()
        (out, mine), (expected, theirs) = step(cheap, batch), step(plain, batch)
        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
        assert close(mine, theirs)


@pytest.mark.parametrize("memory", MEMORY_MODES)
def test_evaluation_is_bit_equal(memory: str) -> None:
    cheap, plain = twins("resnet", "lora", memory, dtype=torch.float32)
    assert torch.equal(output(cheap, images("resnet")), output(plain, images("resnet")))
    cheap.eval(), plain.eval()
    assert torch.equal(cheap(images("resnet")), plain(images("resnet")))  # gradients may be asked for in evaluation too


@pytest.mark.sweep(3)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("name", ["vit", "resnet", "efficientnet"])
def test_gradients_with_one_half_frozen(name: str, memory: str) -> None:
    lora = petl.LoRA(rank=2, where=("linear", "conv", "depthwise"), freeze_down=True)
    cheap, plain = twins(name, lora, memory)
    (out, mine), (expected, theirs) = step(cheap, images(name).double()), step(plain, images(name).double())
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    assert close(mine, theirs) and not any(key.endswith("lora.down") for key in mine)


def second(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """The gradient of the squared gradient of a step."""
    changes = {key: p for key, p in petl.trainable(model).items() if p.requires_grad}
    first = torch.autograd.grad((model(batch) ** 2).sum(), [*changes.values()], create_graph=True)
    again = torch.autograd.grad(sum((g**2).sum() for g in first), [*changes.values()])
    return dict(zip(changes, again, strict=True))


DIFFERENTIATED = ["lora", petl.LoRA(freeze_down=True), NORMS, ["lora", NORMS], "bias"]
TWICE = [(name, methods) for name in ("resnet", "efficientnet") for methods in DIFFERENTIATED]
TWICE += [("resnet", ["lora", petl.BN()])]  # of the other net, the biases' are rounding and nothing else


@pytest.mark.sweep(5)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize(("name", "methods"), TWICE, ids=str)
def test_second_derivatives(name: str, methods: object, memory: str) -> None:
    cheap, plain = twins(name, methods, memory)
    assert close(second(cheap, images(name).double()), second(plain, images(name).double()))


# what a step keeps


@pytest.mark.sweep(1)
@pytest.mark.parametrize(("name", "shares"), [("resnet", (0.6, 0.5, 0.3)), ("vit", (1.01, 0.7, 0.2))])
def test_each_setting_keeps_less(name: str, shares: tuple[float, ...]) -> None:
    batch = images(name)
    plain = kept(petl.wrap(make(name), "lora", num_classes=7, fused=False), batch)
    found = [
        kept(petl.wrap(make(name), "lora", num_classes=7, memory=memory), batch) / plain for memory in MEMORY_MODES
    ]
    assert all(mine < most for mine, most in zip(found, shares, strict=True)), found


@pytest.mark.deep
def test_a_frozen_half_needs_no_layer_input() -> None:
    batch = images("resnet")
    both = kept(petl.wrap(make("resnet"), "lora", num_classes=7), batch)
    assert kept(petl.wrap(make("resnet"), "lora", freeze_down=True, num_classes=7), batch) < 0.8 * both


def test_frozen_convolutions_keep_nothing() -> None:
    batch = images("resnet")
    plain = kept(petl.wrap(make("resnet"), "bias", num_classes=7, fused=False), batch)
    assert kept(petl.wrap(make("resnet"), "bias", num_classes=7), batch) < 0.15 * plain


def test_norms_that_train_keep_their_input_alone() -> None:
    """Nor do ReLUs after them keep anything, whose input is made again."""
    model = petl.wrap(make("resnet"), NORMS, num_classes=7)
    inputs: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda norm, args, out: inputs.append(out.nbytes))
    batch = images("resnet")
    seen = kept(model, batch)
    others = kept(petl.wrap(make("resnet"), "bias", num_classes=7), batch)  # every ReLU's bits, the pooling's places
    assert sum(inputs) < seen < sum(inputs) + others


@pytest.mark.sweep(1)
@pytest.mark.parametrize(("name", "most"), [("resnet", 0.9), ("efficientnet", 0.6)])
def test_between_norms_and_layers_that_train_nothing_is_kept(name: str, most: float) -> None:
    """A layer's input is made again from the input of the norm before it; "fast" keeps both."""
    batch, both = images(name), [NORMS, "lora"]
    fast, lean = (kept(petl.wrap(make(name), both, num_classes=7, memory=memory), batch) for memory in MEMORY_MODES[:2])
    assert lean < most * fast, lean / fast


@pytest.mark.sweep(3)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("name", ["resnet", "vit", "efficientnet", "densenet"])
@pytest.mark.parametrize("methods", ["lora", ["norm", "lora"], "norm"], ids=str)
def test_a_step_leaves_nothing_behind(methods: object, name: str, memory: str) -> None:
    """Nor does anything wait for Python to look for cycles: activations of many steps would pile up."""
    model, batch = petl.wrap(make(name), methods, num_classes=7, memory=memory).train(), images(name)
    step(model, batch)
    gc.collect(), gc.disable()
    try:
        with Storages() as seen:
            model(batch).sum().backward()
        model.zero_grad()
        assert seen.alive(but=[*model.parameters(), *model.buffers(), batch]) == 0
    finally:
        gc.enable()


def test_a_loaded_delta_trains_as_asked(tmp_path: Path) -> None:
    path = petl.save(petl.wrap(make("vit"), "lora", memory="fast"), tmp_path / "d.safetensors")

    def given(**options: Any) -> set[type]:
        return {way for module in petl.load(path, make("vit"), **options).modules() for way in fast_paths(module)}

    assert (
        CheckpointedBlock in given(memory="min")
        and RecomputeScope in given()
        and not any("forward" in vars(way) for way in given(fused=False))
    )
    assert FusedLinear in given(memory="fast") and RecomputeScope not in given(memory="fast")
    base = make("vit")
    with pytest.raises(petl.PetlError, match="memory='least'; expected one of fast, lean, min"):
        petl.load(path, base, memory="least")
    assert petl.record(base) is None


# norms held still


def test_a_hook_between_convolution_and_norm_sees_what_it_always_sees() -> None:
    model, plain = twins("resnet", "lora", "lean")
    name = next(n for n, m in model.named_modules() if hasattr(m, PAIRED_NORM))
    seen: list[Tensor] = []
    for one in (model, plain):
        one.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(out.detach().clone()))
    (_, mine), (_, theirs) = (step(one, images("resnet").double()) for one in (model, plain))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-10, atol=1e-10)
    assert close(mine, theirs)


def test_a_norm_that_others_read_too_is_left_alone() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.fc((self.norm(x) + x).mean((2, 3)))

    model = petl.wrap(Both(), "lora", head="fc")
    conv = model.get_submodule("conv")
    assert not hasattr(conv, PAIRED_NORM)


def test_dropout_between_convolution_and_norm_is_not_skipped() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.dropout(self.conv(x), 0.5, self.training)  # in evaluation the very same tensor comes back
            return self.fc(self.norm(x).mean((2, 3)))

    model = petl.wrap(Dropping(), "lora", head="fc")
    assert not hasattr(model.get_submodule("conv"), PAIRED_NORM)


def test_unwrap_and_merge_leave_no_trace() -> None:
    for give_back in (petl.unwrap, petl.merge):
        model = give_back(petl.wrap(make("resnet"), "lora", memory="min").train())
        assert not any(fast_paths(m) or hasattr(m, PAIRED_NORM) for m in model.modules())
        assert not any(type(m).__mro__[1].__module__.startswith("petl") for m in model.modules())


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_fold_their_own_norms(way: str) -> None:
    model, _ = twins("resnet", "lora", "lean")
    other = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(step(model, images("resnet").double())[0], step(other, images("resnet").double())[0])
    inside = {id(module) for module in other.modules()}
    partners = [part for m in other.modules() if hasattr(m, PAIRED_NORM) for part in getattr(m, PAIRED_NORM)]
    assert partners and all(id(part) in inside for part in partners)


# what is made again


def test_a_result_that_is_overwritten_is_not_made_again() -> None:
    net = nn.Sequential(
        nn.Linear(8, 8), nn.LayerNorm(8), nn.LeakyReLU(0.3, inplace=True), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    plain = petl.wrap(copy.deepcopy(net).double(), "lora", head="4", fused=False)
    cheap = petl.wrap(net.double(), "lora", head="4")
    disturb(plain)
    cheap.load_state_dict(plain.state_dict())
    x = torch.randn(5, 8, dtype=torch.float64)
    assert close(step(cheap.train(), x)[1], step(plain.train(), x)[1])


@pytest.mark.deep
def test_what_autocast_casts_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers keep their input in autocast's type; of a norm's output that is a second tensor."""
    batch = images("vit")
    lean, fast = (petl.wrap(make("vit"), "lora", num_classes=7, memory=memory) for memory in ("lean", "fast"))
    disturb(fast)
    lean.load_state_dict(fast.state_dict())

    def bytes_kept() -> int:
        with torch.autocast("cpu", torch.bfloat16):
            return kept(lean, batch)

    def cheap_and_plain() -> list[dict[str, Tensor]]:
        with torch.autocast("cpu", torch.bfloat16):
            return [step(model.train(), batch)[1] for model in (lean, fast)]

    one, other = cheap_and_plain()
    assert all(torch.equal(one[key], other[key]) for key in other)
    again = bytes_kept()
    monkeypatch.setattr(recompute.RecomputeTape, "cast", lambda self, tensor, dtype: tensor.to(dtype))
    assert again < 0.9 * bytes_kept()


def test_somebody_elses_saved_tensor_hooks_stay_in_charge() -> None:
    model, plain = twins("vit", "lora", "lean")
    packed = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal packed
        packed += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _, mine = step(model, images("vit").double())
    assert packed > 10 and close(mine, step(plain, images("vit").double())[1])


# blocks that run again


class Mixer(nn.Module):
    """A residual block of two layers; ``last`` says what happens to the second one's result."""

    def __init__(self, last: str = "added"):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1), last

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.sin(self.first(x)))
        if self.last == "squared":
            y = y * y
        elif self.last == "scaled by itself":
            y = y * y.detach().abs().mean()
        elif self.last == "masked by itself":
            y = y * (y > 0)
        elif self.last == "masked":
            y = y * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5)
        elif self.last == "stopped":
            return x + y + torch.tanh(x + y.detach())
        elif self.last == "without gradient":
            with torch.no_grad():
                z = y + 1
            return x + y + torch.tanh(x + z)
        return x + y


class Mixers(nn.Module):
    def __init__(self, last: str):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 8, stride=8), nn.Linear(6, 2)
        self.blocks = nn.Sequential(*(Mixer(last) for _ in range(8)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def mixers(last: str) -> tuple[nn.Module, nn.Module, Tensor]:
    net = Mixers(last).double()
    lora = petl.LoRA(rank=2, where=[f"blocks.{n}.{layer}" for n in range(8) for layer in ("first", "second")])
    plain = disturb(petl.wrap(copy.deepcopy(net), lora, head="head", fused=False))
    cheap = petl.wrap(net, lora, head="head", memory="min")
    cheap.load_state_dict(plain.state_dict())
    return cheap.train(), plain.train(), torch.randn(5, 3, 32, 32, dtype=torch.float64)


def products(monkeypatch: pytest.MonkeyPatch, model: nn.Module, x: Tensor) -> tuple[int, int]:
    """How many convolutions are computed in a step's forward, and again in its backward."""
    calls, plain = [0], nn.functional.conv2d

    def counted(*args: Any) -> Tensor:
        calls[0] += 1
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "conv2d", counted)
        torch.manual_seed(0)
        out = model(x)
        forward = calls[0]
        (out**2).sum().backward()
    return forward, calls[0] - forward


@pytest.mark.parametrize(
    ("last", "again"),
    [
        ("added", 8),
        ("masked", 8),
        ("squared", 16),
        ("scaled by itself", 16),
        ("masked by itself", 16),
        ("stopped", 16),
        ("without gradient", 16),
    ],
)
def test_results_that_nobody_reads_are_not_made_again(last: str, again: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap, plain, x = mixers(last)
    assert close(step(cheap, x)[1], step(plain, x)[1])
    assert products(monkeypatch, cheap, x) == (17, again)


def test_hooks_in_a_block_see_true_values_in_both_runs() -> None:
    cheap, plain, x = mixers("added")
    seen: list[Tensor] = []
    cheap.get_submodule("blocks.3.second").register_forward_hook(lambda m, args, out: seen.append(out.detach().clone()))
    assert close(step(cheap, x)[1], step(plain, x)[1])
    assert len(seen) >= 1 and all(torch.equal(one, seen[0]) for one in seen)


def test_a_block_that_keeps_what_it_computes_in_its_first_forward_trains() -> None:
    """ConViT's indices read a weight's type; the run in the backward finds them there."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2, "local_up_to_layer": 1}
    base = timm.create_model("convit_tiny", num_classes=7, **small).double()
    plain = disturb(petl.wrap(copy.deepcopy(base), "lora", num_classes=7, fused=False)).train()
    cheap = petl.wrap(base, "lora", num_classes=7, memory="min").train()
    cheap.load_state_dict(plain.state_dict())
    batch = torch.randn(3, 3, 32, 32).double()
    assert CheckpointedBlock in fast_paths(cheap.get_submodule("blocks.0.attn"))
    assert close(step(cheap, batch)[1], step(plain, batch)[1])


def test_two_backwards_through_blocks_that_run_again() -> None:
    cheap, plain, x = mixers("added")
    both = []
    for model in (cheap, plain):
        loss = (model(x) ** 2).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        both.append({key: cast(Tensor, p.grad) for key, p in petl.trainable(model).items()})
    assert close(both[0], both[1])


def test_the_last_stages_of_a_pyramid_run_once() -> None:
    """They are as much work as the first ones, and keep a fraction of the numbers."""
    model = petl.wrap(timm.create_model("resnet50"), "lora", memory="min")
    assert [name for name, module in model.named_modules() if CheckpointedBlock in fast_paths(module)] == [
        "layer1",
        "layer2",
        "layer3",
    ]


@pytest.mark.sweep(2)
@pytest.mark.parametrize("memory", ["lean", "min"])
@pytest.mark.parametrize(("name", "methods", "rounding"), [("vit", "lora", 0.15), ("resnet", NORMS, 0.3)])
def test_under_autocast(name: str, methods: object, rounding: float, memory: str) -> None:
    """bfloat16 has 8 bits, a dozen layers add up; what is made again is made under the same autocast."""
    cheap, plain = twins(name, methods, memory, dtype=torch.float32)
    exact = step(plain, images(name))[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine, theirs = step(cheap, images(name))[1], step(plain, images(name))[1]
    assert close(mine, exact, rounding) and close(theirs, exact, rounding) and close(mine, theirs, 0.5 * rounding)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize(("name", "methods"), [("vit", "lora"), ("resnet", "lora"), ("resnet", NORMS)])
def test_with_timms_own_checkpointing(name: str, methods: object, memory: str) -> None:
    cheap, plain = twins(name, methods, memory)
    cast(Any, cheap).set_grad_checkpointing(True)
    assert close(step(cheap, images(name).double())[1], step(plain, images(name).double())[1])


@pytest.mark.parametrize("methods", ["lora", petl.LoRA(freeze_down=True), NORMS], ids=str)
def test_per_sample_gradients_by_torch_func(methods: object) -> None:
    model, _ = twins("resnet", methods, "lean")
    delta = {key: p.detach() for key, p in petl.trainable(model).items()}
    batch = images("resnet").double()

    def loss(delta: dict[str, Tensor], one: Tensor) -> Tensor:
        return (functional_call(model, delta, (one[None],)) ** 2).sum()

    each = vmap(grad(loss), in_dims=(None, 0))(delta, batch)
    assert close({key: value.sum(0) for key, value in each.items()}, step(model, batch)[1])


@pytest.mark.deep
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize(("name", "methods"), [("vit", "lora"), ("resnet", "lora"), ("resnet", NORMS)])
def test_compiled_in_one_graph(name: str, methods: object, memory: str) -> None:
    cheap, plain = twins(name, methods, memory)
    batch = images(name).double()
    compiled = torch.compile(cheap, fullgraph=True, backend="aot_eager")
    (compiled(batch) ** 2).sum().backward()
    mine = {key: cast(Tensor, p.grad).clone() for key, p in petl.trainable(cheap).items()}
    assert close(mine, step(plain, batch)[1])
    torch.compiler.reset()


# gates


@pytest.mark.parametrize("high", [6.0, float("inf")])
@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (3, 5), (1, 3, 5, 7)])
@pytest.mark.parametrize("inplace", [True, False])
def test_a_gate_is_relu(shape: tuple[int, ...], high: float, inplace: bool) -> None:
    x = (torch.randn(shape) * 5).requires_grad_()
    out, slot = relu_mask.clamp_with_mask(x * 1, high, inplace)
    assert torch.equal(out, x.clamp(0, high))
    assert slot is not None and slot.mask is not None
    assert (slot.mask.numel() < x.numel()) == slot.is_packed == (x.numel() % 8 == 0)
    weights = torch.randn(shape)
    (mine,) = torch.autograd.grad((out * weights).sum(), x)
    assert torch.equal(mine, weights * ((x > 0) & (x < high)))


def test_pooling_is_torchs() -> None:
    x = torch.randn(2, 3, 11, 11, requires_grad=True)
    window = (3, 2, 1, 1, False)
    out, expected = max_pool.max_pool(x, window), nn.functional.max_pool2d(x, 3, 2, 1)
    assert torch.equal(out, expected)
    mine, theirs = (torch.autograd.grad((y**2).sum(), x)[0] for y in (out, expected))
    assert torch.equal(mine, theirs)


# the option


def test_an_unknown_setting_is_refused_and_leaves_no_trace() -> None:
    model = make("resnet")
    kinds = [type(m) for m in model.modules()]
    with pytest.raises(petl.PetlError, match="memory='tiny'.*fast, lean, min"):
        petl.wrap(model, "lora", num_classes=3, memory="tiny")
    assert [type(m) for m in model.modules()] == kinds and petl.record(model) is None


# what summary says


def test_summary_says_which_layers_run_how_and_why() -> None:
    model = petl.wrap(make("resnet"), "lora", num_classes=3)
    said = petl.summary(model).steps
    assert "layers fused, the norm after it multiplied in" in repr(petl.summary(model))
    assert (
        said["conv1.0"] == "fused, the norm after it multiplied in" and said["fc"] == "plain: the weight itself trains"
    )
    dora = petl.summary(petl.wrap(make("vit"), "lora", dora=True)).steps
    assert dora["blocks.0.attn.qkv"] == "plain: LowRank is not one low-rank change"
    standardised = petl.summary(petl.wrap(make("nfnet"), "lora")).steps
    assert any(words == "plain: LowRank on ScaledStdConv2d, which no kernel knows" for words in standardised.values())
    norms = petl.summary(petl.wrap(make("resnet"), NORMS)).steps
    assert norms["layer1.0.conv1"] == "frozen, with the norm after it: keeps what lies between"
    plain = petl.summary(petl.wrap(make("vit"), "lora", fused=False)).steps
    assert plain["blocks.0.attn.qkv"] == "plain: fused=False"
