"""All or nothing: computed weights, foreign tuners, Ctrl-C at any line, models that can't be changed."""

from __future__ import annotations

import copy
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import petl
from petl.wrapping.interrupts import uninterrupted
from tests.support.compare import differing, portrait, state
from tests.support.zoo import disturb, make, output


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, groups=2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 3)).eval()


X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PUT: dict[str, Callable[[nn.Module], Any]] = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "pruned twice": lambda layer: prune.ln_structured(
        prune.random_unstructured(layer, "weight", 0.1), "weight", 1, 2, 0
    ),
    "old weight_norm": lambda layer: nn.utils.weight_norm(layer),
    "old spectral_norm": lambda layer: nn.utils.spectral_norm(layer),
    "weight_norm": lambda layer: parametrizations.weight_norm(layer),
    "spectral_norm": lambda layer: parametrizations.spectral_norm(layer),
    "parametrized": lambda layer: parametrize.register_parametrization(layer, "weight", Half()),
}


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def computed(way: str) -> nn.Module:
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for place in (0, 3, 6):
            PUT[way](model[place])
    output(model, X)  # old ways compute the weight before a forward
    return model.eval()


@pytest.mark.sweep(8)
@pytest.mark.parametrize("way", PUT)
@pytest.mark.parametrize("method", ["lora", "probe", "bias"])
def test_weights_that_are_computed(way: str, method: str, tmp_path: Path) -> None:
    """Wrapped, trained in every memory setting, saved, loaded, unwrapped and merged like all others."""
    for memory in ("fast", "lean", "min"):
        model = computed(way)
        before, keys = output(model, X), [*model.state_dict()]
        petl.wrap(model, method, head=["7"], memory=memory)
        assert torch.equal(output(model, X), before)
        model.train()(X).sum().backward()
    trained = output(disturb(model), X)
    path = petl.save(model, tmp_path / "delta.safetensors")
    assert torch.equal(output(petl.load(path, computed(way)), X), trained)
    assert torch.equal(output(petl.unwrap(copy.deepcopy(model)), X), before)
    assert torch.equal(output(petl.merge(model), X), trained)
    assert torch.equal(output(model, X), trained)  # and again: nothing computes the old weight
    plain = [*net().state_dict()]
    assert [*model.state_dict()] == (keys if method != "lora" else plain) or {*model.state_dict()} == {*plain}


def test_a_pruned_stem_takes_other_channels() -> None:
    model = computed("pruned")
    x, before = torch.randn(2, 5, 16, 16), output(model, X)
    with torch.no_grad():
        model[0].weight_orig.add_(0.1)  # what the hook computed last is old now
    petl.wrap(model, petl.Input(in_chans=5, bias=True, where=["0"]), head=["7"])
    trained = output(disturb(model), x)
    assert petl.summary(model).steps["6"].startswith("plain: its weight is computed")
    assert torch.equal(output(petl.merge(copy.deepcopy(model)), x), trained)
    assert not torch.equal(output(petl.unwrap(model), X), before)


def test_a_spectral_norm_of_a_weight_that_trains_is_refused() -> None:
    model = computed("spectral_norm")
    before = portrait(model)
    with pytest.raises(petl.SiteError, match="would train under a spectral norm"):
        petl.wrap(model, "full", head=["7"])
    assert portrait(model) == before


def test_a_weight_that_something_unknown_computes_is_refused_at_wrap() -> None:
    model = net()
    value = model[6].weight.detach()
    del model[6].weight
    model[6].weight = value
    with pytest.raises(petl.SiteError, match="is no parameter.*leave the layer out by where="):
        petl.wrap(model, "lora", head=["7"])
    assert type(model[0]) is nn.Conv2d and petl.record(model) is None
    petl.wrap(model, petl.LoRA(where=["0", "3"]), head=["7"]).train()(X).sum().backward()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_merge_writes_no_number_that_is_none(number: float) -> None:
    model = disturb(petl.wrap(net(), "lora", head=["7"]))
    with torch.no_grad():
        model[6].lora.up[0, 0] = number
    before = state(model)
    with pytest.raises(petl.StateError, match=r"not merged: 6.weight would get"):
        petl.merge(model)
    assert differing(before, state(model)) in ([], ["6.lora.up"]) and petl.record(model) is not None  # NaN isn't itself
    petl.unwrap(model)


# Ctrl-C

ACTS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Path], Any]]] = {}


def wrapped(**options: Any) -> nn.Module:
    return disturb(petl.wrap(net(), ["lora", "norm"], head=["7"], **options))


ACTS["wrap"] = (net, lambda model, path: petl.wrap(model, ["lora", "norm"], head=["7"]))
ACTS["wrap, narrow"] = (net, lambda model, path: petl.wrap(model, "lora", head=["7"], base_dtype="bfloat16"))
ACTS["unwrap"] = (wrapped, lambda model, path: petl.unwrap(model))
ACTS["unwrap, narrow"] = (lambda: wrapped(base_dtype="bfloat16"), lambda model, path: petl.unwrap(model))
ACTS["merge"] = (wrapped, lambda model, path: petl.merge(model))
ACTS["merge, narrow"] = (lambda: wrapped(base_dtype="bfloat16"), lambda model, path: petl.merge(model))
ACTS["merge, pruned"] = (
    lambda: disturb(petl.wrap(computed("pruned"), "lora", head=["7"])),
    lambda model, path: petl.merge(model),
)
ACTS["load"] = (net, lambda model, path: petl.load(path, model))


class Interrupt:
    """Raises KeyboardInterrupt at one line of petl's own, the ``at``-th that runs; counts them where ``at`` is 0."""

    def __init__(self, at: int = 0):
        self.at, self.count = at, 0
        self.folder = os.path.dirname(petl.__file__)

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self.folder):
            return None
        self.count += event == "line"
        if event == "line" and self.count == self.at:
            sys.settrace(None)
            raise KeyboardInterrupt
        return self

    def during(self, act: Callable[[], Any]) -> None:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            act()
        finally:
            sys.settrace(before)


def looks(model: nn.Module) -> dict[str, Any]:
    """All about the model, but for what chance put into a new delta."""
    seen = portrait(model)
    seen["bits"] = {key: bits for key, bits in seen["bits"].items() if "lora" not in key}
    return {**seen, "ids": None, "wrapped": petl.record(model) is not None}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", ACTS)
def test_ctrl_c_at_any_line_leaves_all_or_nothing(name: str, tmp_path: Path) -> None:
    """At 8 lines spread over the act, and at its last ones, where the writing is."""
    build, act = ACTS[name]
    path = petl.save(wrapped(), tmp_path / "delta.safetensors")
    counting, done = Interrupt(), build()
    before = looks(done)
    counting.during(lambda: act(done, path))
    after = looks(done)
    places = [*range(1, counting.count, max(1, counting.count // 8)), *range(counting.count - 60, counting.count, 12)]
    for at in places:
        model = build()
        try:
            Interrupt(at).during(lambda model=model: act(model, path))
        except KeyboardInterrupt:
            assert looks(model) in (before, after), at
        else:
            assert looks(model) == after  # one line fewer ran than before


def test_ctrl_c_waits_while_a_model_is_put_back() -> None:
    seen, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)  # shells' background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            seen.append("went on")
        assert seen and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


# foreign tuners


def test_a_tuner_that_merges_to_another_function_is_refused() -> None:
    """peft's OFT on convolutions; and any layer whose merge does something else."""
    pytest.importorskip("peft")
    model = make("resnet")
    petl.wrap(model, "peft:OFT", where=["layer1.0.conv1", "layer2.0.conv1"], r=0, oft_block_size=8, num_classes=3)
    trained, before = output(disturb(model), torch.ones(1, 3, 64, 64)), state(model)
    with pytest.raises(petl.StateError, match="merges OFT on layer1.0.conv1, layer2.0.conv1 to another function"):
        petl.merge(model)
    assert not differing(before, state(model)) and torch.equal(output(model, torch.ones(1, 3, 64, 64)), trained)
    petl.unwrap(model)


@pytest.mark.parametrize("what", ["a bug", "Ctrl-C", "another function"])
def test_a_foreign_merge_that_fails_in_the_middle_is_taken_back_to_the_bit(what: str, monkeypatch: Any) -> None:
    peft = pytest.importorskip("peft")
    model = make("vit")
    petl.wrap(model, ["peft:LoHa", petl.LoRA(where="conv")], num_classes=3)
    trained, before = output(disturb(model), torch.ones(1, 3, 64, 64)), state(model)
    plain, calls = peft.tuners.loha.layer.LoHaLayer.merge, []

    def merge(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        calls.append(self)
        if len(calls) == 3 and what == "another function":
            self.get_base_layer().weight.data.mul_(1.1)
        elif len(calls) == 3:
            raise ZeroDivisionError if what == "a bug" else KeyboardInterrupt

    monkeypatch.setattr(peft.tuners.loha.layer.LoHaLayer, "merge", merge)
    with pytest.raises((petl.StateError, KeyboardInterrupt)):
        petl.merge(model)
    assert not differing(before, state(model)) and torch.equal(output(model, torch.ones(1, 3, 64, 64)), trained)
    monkeypatch.undo()
    torch.testing.assert_close(output(petl.merge(model), torch.ones(1, 3, 64, 64)), trained)


# models that can't be changed, and ways of running that need care


def test_models_that_can_not_be_wrapped_say_so() -> None:
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(petl.StateError, match=r"0.weight.*run one batch first: model\(batch\)"):
        petl.wrap(lazy, "lora", head=False)
    lazy(X)
    petl.wrap(lazy, "lora", head=False)
    for scripted in (torch.jit.script(net()), torch.jit.trace(net(), X), nn.Sequential(torch.jit.script(net()))):
        with pytest.raises(petl.StateError, match="is scripted or traced"):
            petl.wrap(scripted, "lora")
    with torch.inference_mode():
        made = net()
    with pytest.raises(petl.StateError, match="made under torch.inference_mode.*copy.deepcopy"):
        petl.wrap(made, "lora", head=["7"])
    petl.wrap(copy.deepcopy(made), "lora", head=["7"]).train()(X).sum().backward()
    model = petl.wrap(net(), "lora", head=["7"])
    with pytest.raises(petl.StateError, match=r"torch.jit.script.*petl.merge\(model\)"):
        torch.jit.script(model)
    torch.jit.script(petl.merge(model))


def test_wrap_load_merge_and_unwrap_under_inference_mode(tmp_path: Path) -> None:
    model = net()
    with torch.inference_mode():
        petl.wrap(model, ["lora", "norm"], head=["7"])
    model.train()(X).sum().backward()
    path, base = petl.save(model, tmp_path / "delta.safetensors"), net()
    with torch.inference_mode():
        again = petl.load(path, base)
    assert torch.equal(output(again, X), output(model, X))
    again.train()(X).sum().backward()
    with torch.inference_mode():
        petl.merge(model)
        petl.unwrap(again)
    assert not any(p.is_inference() for part in (model, again) for p in part.parameters())


def test_hooks_that_take_a_weight_for_a_batch_are_refused() -> None:
    """Opacus isn't needed to see it: its hooks are methods of its own module."""
    namespace: dict[str, Any] = {"__name__": "opacus.grad_sample.grad_sample_module"}
    exec("class Samples:\n    def capture(self, module, args, out): pass", namespace)
    model = petl.wrap(net(), "lora", head=["7"])
    with pytest.raises(petl.StateError, match=r"Opacus's module hooks.*torch.func"):
        model[0].lora.register_forward_hook(namespace["Samples"]().capture)
    seen = []
    model[0].lora.register_forward_hook(lambda *given: seen.append(given))
    output(model, X)
    assert len(seen) == 1


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning")
def test_eager_quantization_of_a_wrapped_model_is_refused() -> None:
    model = petl.wrap(timm.create_model("test_vit"), "lora").eval()
    before = portrait(model)
    for kinds in ({nn.Linear}, None):
        with pytest.raises(petl.StateError, match=r"quantization on a .*petl.merge\(model\)"):
            torch.ao.quantization.quantize_dynamic(model, kinds)
        assert portrait(model) == before
    with pytest.raises(petl.StateError, match="layer.weight = .* on a Linear"):  # as torchao does
        model.blocks[0].mlp.fc1.weight = nn.Parameter(model.blocks[0].mlp.fc1.weight * 1)
    quantised = torch.ao.quantization.quantize_dynamic(petl.merge(model), {nn.Linear})
    assert "DynamicQuantizedLinear" in repr(quantised.blocks)


@pytest.mark.parametrize("memory", ["fast", "lean", "min"])
def test_torch_func_forward_mode_and_empty_batches(memory: str) -> None:
    """The same as the plain path gives."""
    pair = [
        disturb(petl.wrap(net(), "lora", head=["7"], memory=memory, fused=fused)).train() for fused in (True, False)
    ]
    pair[1].load_state_dict(pair[0].state_dict())
    found = []
    for model in pair:
        own, calls = petl.trainable(model), torch.func.functional_call

        def loss(params: Any, x: Tensor, model: nn.Module = model, calls: Any = calls) -> Tensor:
            return calls(model, params, (x,)).square().sum()

        ones = {key: torch.ones_like(p) for key, p in own.items()}
        each = torch.func.vmap(torch.func.grad(lambda p, x, loss=loss: loss(p, x[None])), in_dims=(None, 0))(own, X)
        empty = model(X[:0])
        empty.sum().backward()
        found.append(
            [
                torch.func.jvp(model, (X,), (X,)),
                torch.func.jvp(lambda p, loss=loss: loss(p, X), (own,), (ones,)),
                list(torch.func.grad(loss)(own, X).values()),
                list(each.values()),
                torch.autograd.grad(loss(own, X), list(own.values())[1:3]),
                torch.func.jvp(torch.func.grad(lambda x, loss=loss, own=own: loss(own, x)), (X,), (X,)),
                [empty, *(p.grad for p in own.values())],
            ]
        )
        assert empty.shape == (0, 3) and not any(p.grad.any() for p in own.values())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
