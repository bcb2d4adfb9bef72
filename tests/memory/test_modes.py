"""Cheap training steps against the plain ones, in every setting of `memory=`: the same gradients; evaluation doesn't notice."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import petl
from petl.graft.classes import fast_paths
from petl.memory.checkpointed_blocks import CheckpointedBlock
from petl.memory.fused_layers import FusedLinear
from petl.memory.modes import MEMORY_MODES
from petl.memory.recomputed_layers import RecomputeScope
from tests.support.live_bytes import Storages
from tests.support.steps import NORMS, close, step, twins
from tests.support.zoo import images, make, output

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


@pytest.mark.sweep(3)
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


@pytest.mark.sweep(2)
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


@pytest.mark.sweep(2)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize(("name", "methods"), TWICE, ids=str)
def test_second_derivatives(name: str, methods: object, memory: str) -> None:
    cheap, plain = twins(name, methods, memory)
    assert close(second(cheap, images(name).double()), second(plain, images(name).double()))


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
