"""`petl.wrap` leaves a model what it is; copies, compilers and exporters take it as before."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import petl
from tests.support.compare import differing, state
from tests.support.zoo import disturb, images, make, output

SOME = [petl.LoRA(rank=2), "norm", "bias"]


# ---- the model stays what it is


@pytest.mark.parametrize("name", ["vit", "resnet", "beit", "crossvit", "levit"])
def test_names_keys_classes_and_hooks_stay(name: str) -> None:
    model, seen = make(name), []
    for module in model.modules():
        module.register_forward_hook(lambda m, args, out: seen.append(id(m)))
    model(images(name))
    plain_calls, seen[:] = list(seen), []
    before = {n: (id(m), type(m)) for n, m in model.named_modules()}
    keys = [*model.state_dict()]
    kept = {n: id(p) for n, p in model.named_parameters()}
    assert petl.wrap(model, [petl.LoRA(rank=2), "bias"]) is model
    after = dict(model.named_modules())
    for n, (identity, kind) in before.items():
        assert id(after[n]) == identity and isinstance(after[n], kind) and type(after[n]).__name__ == kind.__name__
    assert [k for k in model.state_dict() if ".lora." not in k] == keys
    assert {n: id(p) for n, p in model.named_parameters() if ".lora." not in n} == kept
    model(images(name))
    assert seen == plain_calls, "hooks fired in another order"


def test_timms_own_calls_still_work() -> None:
    model = petl.wrap(make("vit"), "lora", num_classes=5)
    x = images("vit")
    assert model.forward_head(model.forward_features(x)).shape == (3, 5)
    assert model.get_classifier() is model.head and model.num_classes == 5
    assert [f.shape[1] for f in model.forward_intermediates(x, intermediates_only=True)] == [64] * 3
    model.set_grad_checkpointing(True)
    assert model.train()(x).shape == (3, 5)
    assert {*model.group_matcher()} == {*make("vit").group_matcher()}


def test_only_what_trains_has_requires_grad() -> None:
    model = petl.wrap(make("resnet"), SOME, num_classes=5)
    trains = petl.trainable(model)
    assert trains and all(p.requires_grad for p in trains.values())
    assert {*trains} == {n for n, p in model.named_parameters() if p.requires_grad}
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    head = {id(p) for p in model.get_classifier().parameters()}
    for n, p in model.named_parameters():
        assert p.requires_grad == (".lora." in n or id(p) in norms | head or n.endswith(".bias")), n


def test_modes_are_left_alone() -> None:
    assert petl.wrap(make("vit").train(), "lora").training
    model = petl.wrap(make("vit").eval(), "lora")
    assert not any(m.training for m in model.modules())


def test_names_options_and_objects_say_the_same() -> None:
    results = []
    for methods, options in (
        ("lora", {"rank": 3}),
        (petl.LoRA(rank=3), {}),
        ([petl.LoRA(rank=3)], {}),
        (["lora"], {"rank": 3}),
    ):
        torch.manual_seed(0)
        results.append(state(petl.wrap(make("vit"), methods, **options)))
    assert not any(differing(results[0], other) for other in results[1:])


# ---- copies, compilers, exporters


@pytest.mark.parametrize("name", ["vit", "resnet", "beit", "swin"])
def test_copies_are_whole_and_apart(name: str, tmp_path) -> None:
    model = disturb(petl.wrap(make(name), ["bias", petl.LoRA(rank=2), petl.Adapter(bottleneck=2)], num_classes=5))
    out = output(model, images(name))
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(output(clone, images(name)), out)
        assert not any(m.training for m in clone.train().modules() if isinstance(m, nn.BatchNorm2d))
        disturb(clone, seed=5)
        assert not torch.equal(output(clone, images(name)), out)
        assert torch.equal(output(model, images(name)), out)
        petl.unwrap(clone)
        assert not differing(state(clone), state(make(name)))
        assert petl.record(model) is not None


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", ["vit", "resnet", "beit"])
def test_export_and_trace_agree_with_eager(name: str) -> None:
    model, batch = disturb(petl.wrap(make(name), "lora", num_classes=5)).eval(), images(name)
    out = output(model, batch)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(torch.jit.trace(model, batch)(batch), out)
        torch.testing.assert_close(torch.export.export(model, (batch,)).module()(batch), out)


def test_timms_reparameterisation_takes_the_delta_along() -> None:
    from timm.utils import reparameterize_model

    model = disturb(petl.wrap(make("repvgg"), petl.LoRA(rank=2), num_classes=5), by=0.05).eval()
    with torch.no_grad():
        expected, base = model(images("repvgg")), output(make("repvgg"), images("repvgg"))
        fused = reparameterize_model(copy.deepcopy(model))
        assert not any(hasattr(m, "lora") for m in fused.modules() if isinstance(m, nn.Conv2d))
        torch.testing.assert_close(
            fused(images("repvgg")), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
        )
        assert base.shape != expected.shape and torch.equal(output(model, images("repvgg")), expected)


def test_a_wrapped_model_on_meta_runs_shapes_only() -> None:
    model = petl.wrap(make("vit").to("meta"), ["lora", petl.Adapter(bottleneck=2)], num_classes=5)
    assert model(images("vit").to("meta")).shape == (3, 5)
    model.to_empty(device="cpu")
    assert output(model, images("vit")).shape == (3, 5)
