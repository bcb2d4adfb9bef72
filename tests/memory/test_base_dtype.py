"""Frozen weights in 16 bits: a step is that of the rounded base, and takes no byte more."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import petl
from petl.graft.classes import fast_paths, is_grafted
from petl.graft.values import input_dtype
from petl.memory.base_dtype import Upcast
from petl.memory.modes import MEMORY_MODES
from tests.support.compare import differing, portrait, state
from tests.support.live_bytes import kept
from tests.support.low_precision import FAMILIES, low, narrow
from tests.support.zoo import disturb, images, make, output

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"fused": False},
    **{memory: {"memory": memory} for memory in MEMORY_MODES},
}
settings = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())


def rounded(base: nn.Module, like: nn.Module, methods: Any = "lora", **options: Any) -> nn.Module:
    """``base`` with the rounded numbers of ``like`` in its own type, wrapped, with the delta of ``like``."""
    mine = state(like)
    with torch.no_grad():
        for key, p in base.named_parameters():
            if key in mine and mine[key].dtype != p.dtype:
                p.copy_(mine[key])
    other = petl.wrap(base, methods, num_classes=7, **options)
    other.load_state_dict(mine)
    return other


def step(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """The output and all gradients of one training step; dropout draws the same numbers each time."""
    torch.manual_seed(0)
    model.zero_grad()
    out = model.train()(batch)
    (out**2).sum().backward()
    return {"": out.detach(), **{key: cast(Tensor, p.grad).clone() for key, p in petl.trainable(model).items()}}


# the numbers


@pytest.mark.sweep(3)
@settings
@pytest.mark.parametrize(
    ("name", "methods"),
    [("vit", "lora"), ("vit", "adapter"), ("resnet", "lora"), ("resnet", "bias"), ("swinv2", "lora"), ("beit", "bias")],
)
def test_a_step_is_that_of_the_rounded_base(name: str, methods: str, setting: dict[str, Any]) -> None:
    """Bit for bit: nothing is rounded but the base, and that once."""
    model = disturb(narrow(name, methods, **setting))
    twin = rounded(make(name), model, methods, **setting)
    assert low(model) and not low(twin)
    mine, theirs = step(model, images(name)), step(twin, images(name))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert torch.equal(output(model, images(name)), output(twin, images(name)))


@pytest.mark.sweep(1)
@settings
def test_a_step_under_autocast(setting: dict[str, Any]) -> None:
    model = disturb(narrow("vit", **setting))
    twin = rounded(make("vit"), model, **setting)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine, theirs = step(model, images("vit")), step(twin, images("vit"))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize(("name", "methods"), [("vit", "lora"), ("resnet", "lora"), ("vit", "adapter")])
def test_gradients_are_those_of_the_plain_layers_on_the_rounded_base(name: str, methods: str, memory: str) -> None:
    """In float64, up to 1e-10."""
    model = disturb(petl.wrap(make(name).double(), methods, num_classes=7, base_dtype="float16", memory=memory))
    twin = rounded(make(name).double(), model, methods, fused=False)
    mine, theirs = step(model, images(name).double()), step(twin, images(name).double())
    norms = {key: max(float(value.norm()), 1e-6) for key, value in theirs.items()}
    assert all(float((mine[key] - theirs[key]).norm()) <= 1e-10 * norms[key] for key in theirs)


def test_a_small_change_is_not_rounded_away() -> None:
    model = narrow("vit")
    layer = cast(Any, model).blocks[0].attn.qkv
    before = output(model, images("vit"))
    with torch.no_grad():
        layer.lora.up.fill_(1e-6)  # far below a bfloat16's last bit
    assert not torch.equal(output(model, images("vit")), before)
    assert layer.weight.dtype == torch.float32 and layer._parameters["weight"].dtype == torch.bfloat16


def test_activations_norms_delta_and_head_stay_wide() -> None:
    model = narrow("vit")
    seen: set[torch.dtype] = set()
    for module in model.modules():
        module.register_forward_hook(lambda module, args, out: seen.add(out.dtype) if isinstance(out, Tensor) else None)
    output(model, images("vit"))
    assert seen == {torch.float32}
    assert input_dtype(model) == torch.float32 and next(iter(model.parameters())).dtype == torch.float32
    kinds = {type(cast(Any, model.get_submodule(key.rpartition(".")[0]))).__name__ for key in low(model)}
    assert kinds == {"Linear", "Conv2d"} and all(key.endswith(".weight") for key in low(model))
    without_head = petl.wrap(make("vit"), "bias", head=False, base_dtype="bfloat16")
    assert low(without_head) == low(model)  # the classifier is frozen then, and stays wide all the same


# what it takes


@pytest.mark.deep
@settings
@pytest.mark.parametrize(
    ("name", "methods"),
    [*((n, m) for n in ("vit", "resnet", "swinv2") for m in ("lora", "adapter")), ("convnext", petl.LoRA(dora=True))],
)
def test_a_step_keeps_no_byte_more(name: str, methods: Any, setting: dict[str, Any]) -> None:
    wide = petl.wrap(make(name), methods, num_classes=7, **setting)
    assert kept(narrow(name, methods, **setting), images(name)) <= kept(wide, images(name))


@pytest.mark.deep
@pytest.mark.parametrize("name", ["condconv", "sequencer", "nfnet", "lowformer"])
def test_a_step_of_rare_layers_keeps_no_byte_more(name: str) -> None:
    assert kept(narrow(name, "bias"), images(name)) <= kept(petl.wrap(make(name), "bias", num_classes=7), images(name))


@pytest.mark.deep
@pytest.mark.parametrize("hooks", [True, False], ids=["somebody else's hooks", "autocast"])
def test_kernels_keep_no_wide_weight_where_petls_hooks_stay_away(hooks: bool) -> None:
    """Plain linear layers and convolutions don't need the hooks; autocast's copies are the layers' own, as ever."""
    wide, thin = petl.wrap(make("vit"), "adapter", num_classes=7), narrow("vit", "adapter")
    inside = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    with inside if hooks else torch.autocast("cpu", dtype=torch.bfloat16):
        assert kept(thin, images("vit")) <= kept(wide, images("vit"))


def test_frozen_parameters_take_half() -> None:
    model, before = narrow("resnet", "bias"), make("resnet")
    sizes = [{k: p.numel() * p.element_size() for k, p in m.named_parameters()} for m in (model, before)]
    assert all(2 * sizes[0][key] == sizes[1][key] for key in low(model))
    matrices = [key for key, p in before.named_parameters() if p.ndim > 1 and not key.startswith("fc")]
    assert low(model) == sorted(matrices)


# back and forth


@pytest.mark.sweep(1)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["vit", "efficientnet", "sequencer"])
def test_unwrap_gives_the_bits_back(name: str, dtype: torch.dtype) -> None:
    model = make(name)
    before = portrait(model)
    petl.wrap(model, "lora", num_classes=7, base_dtype=dtype)
    step(model, images(name))
    disturb(model)
    assert low(model)
    assert portrait(petl.unwrap(model)) == before


def test_an_error_on_the_way_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("vit")
    before, halfway = portrait(model), []

    def fail(model: nn.Module, *_: Any) -> None:
        halfway.extend(low(model))
        raise RuntimeError("on the way")

    monkeypatch.setattr("petl.wrapping.install.hold_untuned", fail)
    with pytest.raises(RuntimeError, match="on the way"):
        petl.wrap(model, "lora", num_classes=7, base_dtype="bfloat16")
    assert halfway and portrait(model) == before


def test_a_frozen_narrow_weight_that_moved_is_named() -> None:
    model = narrow("vit")
    with torch.no_grad():
        cast(Any, model).blocks[1].mlp.fc1._parameters["weight"].add_(1)
    with pytest.raises(petl.StateError, match="blocks.1.mlp.fc1.weight"):
        petl.unwrap(model)


@pytest.mark.parametrize("methods", ["lora", "adapter", "partial"])
@pytest.mark.sweep(1)
def test_a_delta_records_it_and_reloads_bit_equal(methods: str, tmp_path: Path) -> None:
    model = disturb(narrow("vit", methods, torch.float16))
    path = petl.save(model, tmp_path / "delta.safetensors")
    assert petl.read(path)["base_dtype"] == "float16"
    again = petl.load(path, make("vit"))
    assert torch.equal(output(again, images("vit")), output(model, images("vit"))) and low(again) == low(model)
    assert differing(state(again), state(model)) == []
    assert (
        path.stat().st_size
        < 1.2
        * petl.save(disturb(petl.wrap(make("vit"), methods, num_classes=7)), tmp_path / "wide.safetensors")
        .stat()
        .st_size
    )


def test_the_digest_is_the_original_bases(tmp_path: Path) -> None:
    model, wide = disturb(narrow("vit")), petl.wrap(make("vit"), "lora", num_classes=7)
    assert cast(Any, petl.record(model)).digest == cast(Any, petl.record(wide)).digest
    path = petl.save(model, tmp_path / "delta.safetensors")
    other = petl.load(path, make("vit"), base_dtype=None)
    delta = {key: value for key, value in state(model).items() if value.dtype == torch.float32}
    wide.load_state_dict(delta, strict=False)
    assert not low(other) and torch.equal(output(other, images("vit")), output(wide, images("vit")))
    assert not torch.equal(output(other, images("vit")), output(model, images("vit")))


def test_any_delta_goes_onto_a_narrow_base(tmp_path: Path) -> None:
    model = disturb(petl.wrap(make("vit"), "lora", num_classes=7))
    path = petl.save(model, tmp_path / "delta.safetensors")
    assert petl.read(path)["base_dtype"] is None and not low(petl.load(path, make("vit")))
    thin = petl.load(path, make("vit"), base_dtype="bfloat16")
    assert low(thin) == low(narrow("vit"))
    plain = make("vit")
    before = portrait(plain)
    with pytest.raises(petl.MethodError, match="base_dtype='int3'"):
        petl.load(path, plain, base_dtype="int3")
    assert portrait(plain) == before


def test_what_was_unfrozen_by_hand_is_saved_and_loaded(tmp_path: Path) -> None:
    model = narrow("vit")
    layer = cast(Any, model).blocks[0].mlp.fc1._parameters["weight"].requires_grad_()
    step(model, images("vit"))
    assert layer.grad is not None
    with torch.no_grad():
        layer.mul_(1.5)
    path = petl.save(disturb(model), tmp_path / "delta.safetensors")
    again = petl.load(path, make("vit"))
    assert torch.equal(output(again, images("vit")), output(model, images("vit")))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.sweep(2)
def test_merging_writes_wide_tensors_of_the_same_output(name: str) -> None:
    model = disturb(narrow(name))
    out, base = output(model, images(name)), make(name)
    petl.merge(model)
    assert torch.equal(output(model, images(name)), out)
    assert not low(model) and list(model.state_dict()) == list(base.state_dict())
    assert not any(is_grafted(module) or isinstance(module, Upcast) for module in model.modules())


# ways of running


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies(way: str) -> None:
    model = disturb(narrow("resnet"))
    other = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert low(other) == low(model)
    mine, theirs = step(model, images("resnet")), step(other, images("resnet"))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert portrait(petl.unwrap(other))["bits"] == portrait(make("resnet"))["bits"]


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "setting"), [*(("vit", key) for key in SETTINGS), ("resnet", "lean"), ("swinv2", "lean")]
)
def test_compiled_in_one_graph(name: str, setting: str) -> None:
    model = disturb(narrow(name, **SETTINGS[setting])).train()
    eager = step(model, images(name))
    torch.manual_seed(0)
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    (compiled(images(name)) ** 2).sum().backward()
    for key, p in petl.trainable(model).items():
        torch.testing.assert_close(p.grad, eager[key], rtol=1e-4, atol=1e-4 * float(eager[key].abs().max()))
    torch.compiler.reset()


@settings
@pytest.mark.parametrize("name", ["vit", "resnet"])
@pytest.mark.sweep(3)
def test_with_timms_own_checkpointing(name: str, setting: dict[str, Any]) -> None:
    model = disturb(narrow(name, **setting))
    plain = step(model, images(name))
    cast(Any, model).set_grad_checkpointing(True)
    again = step(model, images(name))
    assert all(torch.equal(again[key], plain[key]) for key in plain)


@pytest.mark.parametrize("methods", ["lora", "probe"])
def test_fit_and_evaluate(methods: str) -> None:
    data = TensorDataset(images("resnet", batch=12), torch.arange(12) % 3)
    model = petl.wrap(make("resnet"), methods, num_classes=3, base_dtype="bfloat16")
    before = {key: value for key, value in state(model).items() if key in low(model)}
    inputs: set[torch.dtype] = set()
    cast(Any, model).conv1.register_forward_pre_hook(lambda module, args: inputs.add(args[0].dtype))
    history = petl.fit(model, data, epochs=2, lr=1e-3, batch_size=4)
    assert len(history) == 2 and inputs == {torch.float32}
    assert not differing(before, {key: state(model)[key] for key in before})
    petl.evaluate(model, data)


def test_a_wrapped_model_can_be_surveyed() -> None:
    model = narrow("resnet", "bias")
    assert next(iter(model.parameters())).dtype == torch.bfloat16
    assert petl.find(model, "conv").left == petl.find(make("resnet"), "conv").left
    assert {site.name for site in petl.find(model, "conv")} == {site.name for site in petl.find(make("resnet"), "conv")}


# what is left as it is, and said so


def test_half_models_and_trained_weights_are_left() -> None:
    half = petl.wrap(make("vit").to(torch.bfloat16), "lora", num_classes=7, base_dtype=torch.float16)
    base = petl.summary(half).base
    assert (
        not cast(Any, petl.record(half)).low_precision_keys
        and base.matrices["blocks.0.attn.qkv.weight"] == "bfloat16 already"
    )
    assert not low(narrow("vit", "full"))
    partial = petl.summary(narrow("vit", petl.Partial(last=1))).base.matrices
    assert partial["blocks.2.attn.qkv.weight"] == "it trains" and partial["blocks.1.attn.qkv.weight"] == "bfloat16"
    assert partial["head.weight"] == "the classifier"


def test_shared_weights_and_large_numbers_are_left() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4))
    net[3].weight = net[2].weight
    with torch.no_grad():
        cast(Tensor, net[0].weight)[0, 0, 0, 0] = 1e5
    model = petl.wrap(net, "bias", head="4", base_dtype="float16")
    assert petl.summary(model).base.matrices == {
        "0.weight": "its numbers don't fit float16",
        "2.weight": "several modules share it",
        "3.weight": "several modules share it",
        "4.weight": "the classifier",
    }
    assert low(petl.wrap(petl.unwrap(model), "bias", head="4", base_dtype="bfloat16")) == ["0.weight"]


def test_summary_shows_types_and_bytes() -> None:
    model = narrow("vit")
    base = petl.summary(model).base
    sizes = {torch.float32: 0, torch.bfloat16: 0}
    for key, p in model.named_parameters():
        sizes[p.dtype] += p.numel() * p.element_size() * (".lora." not in key)
    assert base.bytes == {"bfloat16": sizes[torch.bfloat16], "float32": sizes[torch.float32]}
    assert base.originals == 2 * base.bytes["bfloat16"]
    assert "kB bfloat16" in repr(petl.summary(model)) and "the originals in main memory" in repr(petl.summary(model))
    assert "base:" not in repr(petl.summary(petl.wrap(make("vit"), "lora")))
    assert petl.summary(narrow("vit", "bias")).steps["blocks.0.attn.proj"] == "frozen, keeps nothing"


def test_nothing_grows_where_it_is_not_asked_for() -> None:
    model = petl.wrap(make("vit"), "adapter", num_classes=7, fused=False)
    assert not any(isinstance(m, Upcast) for m in model.modules())
    assert not any("forward" in vars(way) for m in model.modules() for way in fast_paths(m))
    assert not is_grafted(cast(Any, model).blocks[0].attn.qkv)
    assert not any(is_grafted(m) for m in petl.unwrap(narrow("vit", "adapter")).modules())


@pytest.mark.parametrize("asked", ["bf16", torch.float32, torch.int8, 16, "bfloat"])
def test_another_type_is_refused_before_anything_changes(asked: Any) -> None:
    model = make("vit")
    before = portrait(model)
    with pytest.raises(petl.MethodError, match=r"base_dtype=.*expected torch.bfloat16 or torch.float16"):
        petl.wrap(model, "lora", base_dtype=asked)
    assert portrait(model) == before


def test_peft_and_the_meta_device_are_refused() -> None:
    pytest.importorskip("peft")
    model = make("vit")
    before = portrait(model)
    with pytest.raises(petl.MethodError, match="base_dtype=torch.bfloat16 with peft"):
        petl.wrap(model, "peft:LoHa", r=4, base_dtype="bfloat16")
    assert portrait(model) == before
    with pytest.raises(petl.StateError, match="meta device"):
        petl.wrap(make("vit").to("meta"), "lora", base_dtype="bfloat16")
