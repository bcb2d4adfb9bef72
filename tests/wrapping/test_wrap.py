"""wrap, unwrap, merge: what the model still is, what it gets back, and that errors leave no trace."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import petl
from tests.support.compare import differing, portrait, state
from tests.support.zoo import CLASSES, ZOO, disturb, images, make, output

SOME = [petl.LoRA(rank=2), "norm", "bias"]


def trained(model: nn.Module, batch: Tensor, steps: int = 2) -> nn.Module:
    """A few steps of plain SGD on a made-up loss."""
    model.train()
    optimizer = torch.optim.SGD(petl.trainable(model).values(), lr=0.05)
    for _ in range(steps):
        out = model(batch)
        loss = sum((o.square() - o).mean() for o in (out if isinstance(out, (tuple, list)) else [out]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


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


# ---- heads


@pytest.mark.parametrize("name", sorted(ZOO))
def test_num_classes_gives_every_architecture_a_new_classifier(name: str) -> None:
    model = petl.wrap(make(name), "probe", num_classes=7)
    out = model.train()(images(name))
    assert all(o.shape == (3, 7) for o in (out if isinstance(out, tuple) else [out]))
    assert model.num_classes == 7
    assert {n.split(".")[0] for n in petl.trainable(model)} <= {h.split(".")[0] for h in petl.record(model).head}
    asked = model.get_classifier()
    layers = asked if isinstance(asked, (tuple, list)) else [asked]
    assert all(p.requires_grad for layer in layers for p in layer.parameters())


def test_the_same_number_of_classes_keeps_the_classifier() -> None:
    model, head = make("vit"), make("vit").head.weight
    for num_classes in (None, CLASSES):
        wrapped = petl.wrap(copy.deepcopy(model), "lora", num_classes=num_classes)
        assert torch.equal(wrapped.head.weight, head) and wrapped.head.weight.requires_grad


def test_head_false_freezes_the_classifier() -> None:
    model = petl.wrap(make("deit_distilled"), "lora", head=False)
    assert not any(n.startswith("head") for n in petl.trainable(model))
    assert petl.record(model).head == ()
    with pytest.raises(petl.MethodError, match="head=False"):
        petl.wrap(make("vit"), "lora", head=False, num_classes=5)
    with pytest.raises(petl.SiteError, match="nothing to train"):
        petl.wrap(make("vit"), "probe", head=False)


@pytest.mark.parametrize(("name", "heads"), [("deit_distilled", 2), ("levit", 2), ("crossvit", 2), ("tnt", 1)])
def test_all_classifiers_train(name: str, heads: int) -> None:
    model = petl.wrap(make(name), "probe", num_classes=5)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 5]
    assert len(linear) == heads and all(m.weight.requires_grad for m in linear)


def test_a_base_without_classes() -> None:
    model = petl.wrap(timm.create_model("test_vit", num_classes=0), "lora", num_classes=5)
    assert output(model, torch.randn(2, 3, 160, 160)).shape == (2, 5)
    assert {"head.weight", "head.bias"} <= {*petl.trainable(model)}
    assert petl.unwrap(model).num_classes == 0 and isinstance(model.head, nn.Identity)
    featureless = petl.wrap(timm.create_model("test_vit", num_classes=0), "lora")
    assert output(featureless, torch.randn(2, 3, 160, 160)).shape == (2, 64)
    with pytest.raises(petl.SiteError, match="num_classes"):
        petl.wrap(timm.create_model("test_vit", num_classes=0), "probe")


class Encoder(nn.Module):
    """A plain module, no timm contract; classifies by ``fc``."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU())
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.norm(self.stem(x))).mean((2, 3)))


def test_models_without_a_classifier_to_ask_for() -> None:
    before = portrait(model := Encoder())
    for options in ({}, {"num_classes": 5}):
        with pytest.raises(petl.SiteError, match=r"no classifier.*head=False"):
            petl.wrap(model, "lora", **options)
        assert portrait(model) == before
    petl.wrap(model, "lora", head=False)
    assert not model.fc._parameters["weight"].requires_grad


def test_the_classifier_by_name() -> None:
    model = petl.wrap(Encoder(), "lora", head="fc", num_classes=4)
    assert output(model, torch.randn(3, 3, 32, 32)).shape == (3, 4)
    assert not hasattr(model.fc, "lora") and model.fc.weight.requires_grad
    kept = petl.wrap(Encoder(), "lora", head="fc")
    assert kept.fc.out_features == 10 and kept.fc.weight.requires_grad
    assert output(petl.unwrap(model), torch.randn(3, 3, 32, 32)).shape == (3, 10)
    with pytest.raises(petl.SiteError, match="near names: fc"):
        petl.wrap(Encoder(), "lora", head="fcc")


def test_torchvision_with_its_classifier_by_name() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    base, x = resnet18(num_classes=10).eval(), torch.randn(3, 3, 64, 64)
    before = portrait(base)
    plain = output(base, x)
    model = petl.wrap(base, ["bn", petl.LoRA(rank=2)], head="fc", num_classes=4)
    assert model.fc.out_features == 4
    trained(model, x)
    out = output(model, x)
    merged = petl.merge(copy.deepcopy(model))
    assert torch.equal(output(merged, x), out) and {*merged.state_dict()} == {*before["bits"]}
    petl.unwrap(model)
    assert portrait(model) == before and torch.equal(output(model, x), plain)


def test_a_real_headless_encoder_of_timm() -> None:
    with torch.device("meta"):
        model = timm.create_model("mobilenetv5_300m_enc")
    assert not hasattr(model, "reset_classifier")
    before = {n: type(m) for n, m in model.named_modules()}
    with pytest.raises(petl.SiteError, match="head=False"):
        petl.wrap(model, "lora", num_classes=5)
    assert {n: type(m) for n, m in model.named_modules()} == before
    assert petl.trainable(petl.wrap(model, "lora", head=False))


# ---- unwrap


@pytest.mark.parametrize("name", ["vit", "resnet", "beit", "deit_distilled", "levit", "swinv2", "nfnet", "crossvit"])
def test_unwrap_gives_everything_back(name: str) -> None:
    model, batch = make(name), images(name)
    mixed = [n for i, (n, _) in enumerate(model.named_parameters()) if i % 3 == 0]
    for n, p in model.named_parameters():
        p.requires_grad_(n in mixed)
    model.train()
    next(model.children()).eval()
    expected, before = output(copy.deepcopy(model), batch), portrait(model)
    petl.wrap(model, ["bias", petl.LoRA(rank=2), petl.Adapter(bottleneck=2)], num_classes=5)
    trained(model, batch)
    assert petl.unwrap(model) is model
    assert portrait(model) == before
    assert torch.equal(output(model, batch), expected)
    assert petl.record(model) is None
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "methods", ["full", "bn", ["norm", "bias"], "partial", [petl.Input(in_chans=4), petl.Full(stats="adapt")]]
)
def test_unwrap_restores_what_trained_in_place(methods: Any) -> None:
    model = make("resnet")
    before = portrait(model)
    petl.wrap(model, methods)
    trained(model, images("resnet", petl.in_chans(model)))
    assert differing(state(model), state(make("resnet")))
    petl.unwrap(model)
    assert portrait(model) == before


def test_unwrap_and_wrap_again() -> None:
    model = make("vit")
    for methods in ("lora", "adapter", "full"):
        petl.wrap(model, methods, num_classes=5)
        trained(model, images("vit"))
        petl.unwrap(model)
    assert torch.equal(output(model, images("vit")), output(make("vit"), images("vit")))


def test_unwrap_refuses_when_a_frozen_tensor_has_moved() -> None:
    model = petl.wrap(make("vit"), "lora")
    with torch.no_grad():
        model.blocks[1].norm1.weight.add_(1)
    with pytest.raises(petl.StateError, match=r"blocks\.1\.norm1\.weight"):
        petl.unwrap(model)
    assert petl.record(model) and hasattr(model.blocks[0].attn.qkv, "lora")


def test_unwrap_after_moving_and_after_a_new_classifier() -> None:
    model = make("vit")
    before = portrait(model)
    petl.wrap(model, "lora", num_classes=5)
    model.reset_classifier(3)
    petl.unwrap(model)
    assert portrait(model) == before


def test_unwrap_takes_hooks_that_came_later_along() -> None:
    model, seen = petl.wrap(make("vit"), "lora"), []
    model.blocks[0].attn.qkv.register_forward_hook(lambda *_: seen.append(1))
    petl.unwrap(model)
    model(images("vit"))
    assert seen == [1]


def test_not_wrapped() -> None:
    for verb in (petl.unwrap, petl.merge, petl.summary):
        with pytest.raises(petl.StateError, match="not wrapped"):
            verb(make("vit"))
    assert petl.record(make("vit")) is None


# ---- merge


@pytest.mark.parametrize(
    "name", ["vit2", "beit", "swinv2", "efficientnet_same", "resnext", "nfnet", "coat", "mambaout", "densenet"]
)
def test_merge_gives_timms_keys_and_equal_bits(name: str) -> None:
    model, batch = make(name), images(name)
    petl.wrap(model, [petl.LoRA(rank=2, where=("linear", "conv", "depthwise")), "bias"], num_classes=5)
    trained(model, batch)
    before = output(model, batch)
    assert petl.merge(model) is model
    assert torch.equal(output(model, batch), before)
    architecture, _, arguments = ZOO[name]
    fresh = timm.create_model(architecture, num_classes=5, **arguments).eval()
    assert [*model.state_dict()] == [*fresh.state_dict()]
    assert {n: type(m) for n, m in model.named_modules()} == {n: type(m) for n, m in fresh.named_modules()}
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(output(fresh, batch), before)
    assert petl.record(model) is None and all(p.requires_grad for p in model.parameters())


def test_merge_in_training_mode_lets_held_norms_train_at_once() -> None:
    model = petl.merge(petl.wrap(make("resnet"), "lora", num_classes=5).train())
    assert all(m.training for m in model.modules())
    assert not any(m.training for m in petl.merge(petl.wrap(make("resnet"), "lora")).modules())


def test_merge_lets_held_norms_go() -> None:
    model = petl.merge(petl.wrap(make("resnet"), "lora", num_classes=5)).train()
    assert all(m.training for m in model.modules())
    before = state(model)
    model(images("resnet"))
    assert any("running_mean" in k for k in differing(before, state(model)))


def test_merge_is_all_or_nothing() -> None:
    model = petl.wrap(make("resnet"), ["bn", "lora", petl.Input(in_chans=1, bias=True)], num_classes=5)
    trained(model, images("resnet", 1))
    before = portrait(model)
    with pytest.raises(petl.StateError, match=r"conv1.*input"):
        petl.merge(model)
    assert portrait(model) == before and petl.record(model)
    petl.unwrap(model)
    assert not differing(state(model), state(make("resnet")))


def test_merge_keeps_half_precision_and_layout() -> None:
    model = make("resnet").to(memory_format=torch.channels_last).bfloat16()
    batch = images("resnet").to(torch.bfloat16, memory_format=torch.channels_last)
    disturb(petl.wrap(model, "lora", num_classes=5))
    before = output(model, batch)
    petl.merge(model)
    assert torch.equal(output(model, batch), before) and {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


# ---- errors leave the model as it was

WRONG = {
    "unknown method": ("lorra", {}, petl.MethodError, "near names: lora"),
    "unknown method in a list": (["bias", "norm", "adaptor"], {}, petl.MethodError, "near names: adapter"),
    "empty list": ([], {}, petl.MethodError, "empty list"),
    "no method": (None, {}, petl.MethodError, "None"),
    "class, not object": (petl.LoRA, {}, petl.MethodError, "LoRA"),
    "options to many": (["lora", "bias"], {"rank": 4}, petl.MethodError, "single method"),
    "unknown option": ("lora", {"rnk": 4}, petl.MethodError, "near names: rank"),
    "zero rank": ("lora", {"rank": 0}, petl.MethodError, "rank=0"),
    "text after a colon": ("lora:big", {}, petl.MethodError, "colon"),
    "unknown place": ("lora", {"where": "linears"}, petl.SiteError, "near names: linear"),
    "nothing there": ("bn", {}, petl.SiteError, "no BatchNorm"),
    "third of three": (["bias", "lora", "bn"], {}, petl.SiteError, "no BatchNorm"),
    "same place twice": ([petl.LoRA(rank=2), petl.LoRA(rank=4)], {}, petl.SiteError, "already has an attribute 'lora'"),
    "no classes": ("lora", {"num_classes": 0}, petl.MethodError, "num_classes=0"),
    "fewer than no classes": ("lora", {"num_classes": -3}, petl.MethodError, "num_classes=-3"),
    "classes that are no number": ("lora", {"num_classes": "five"}, petl.MethodError, "expected a whole number"),
    "half a class": ("lora", {"num_classes": 1.5}, petl.MethodError, "expected a whole number"),
    "scale that is none": ("lora", {"alpha": float("nan")}, petl.MethodError, "alpha=nan"),
    "arguments as a list": ("lora", {"create_args": [("img_size", 64)]}, petl.MethodError, "expected a dict"),
    "no head's name": ("lora", {"head": 5}, petl.MethodError, "list of names"),
    "head's names in no order": ("lora", {"head": {"head"}}, petl.MethodError, "list of names"),
    "unknown head": ("lora", {"head": "heed"}, petl.SiteError, "near names: head"),
}


@pytest.mark.parametrize("five", [np.int64(5), torch.tensor(4) + 1], ids=["numpy", "torch"])
def test_classes_counted_by_numpy_or_torch_are_saved(five: Any, tmp_path: Path) -> None:
    """As ``labels.max() + 1`` gives them; a header holds Python's own numbers."""
    built = timm.create_model("test_resnet", num_classes=np.int64(5))
    for model in (petl.wrap(make("resnet"), "probe", num_classes=five), petl.wrap(built, "probe")):
        petl.save(model, tmp_path / "delta.safetensors")
        assert petl.read(tmp_path / "delta.safetensors")["backbone"]["num_classes"] == 5


@pytest.mark.parametrize("case", WRONG)
def test_errors_leave_the_model_as_it_was(case: str) -> None:
    methods, options, error, message = WRONG[case]
    model = make("vit").train()
    model.head.weight.requires_grad_(False)
    before = portrait(model)
    with pytest.raises(error, match=message) as caught:
        petl.wrap(model, methods, **{"num_classes": 5, **options})
    assert isinstance(caught.value, petl.PetlError)
    assert portrait(model) == before


@petl.register("fails-late")
@dataclass(frozen=True, kw_only=True)
class FailsLate(petl.Method):
    """Grows on half of its sites, sets an attribute, replaces a module, then fails."""

    where: petl.Where = "linear"
    error: str = "PetlError"

    def apply(self, model: nn.Module, sites: Any) -> None:
        for site in sites[: len(sites) // 2]:
            petl.grow(model.get_submodule(site.name), "late", petl.LoRA and _Twice())
        model.remembered = 1
        model.blocks[0].norm1 = nn.Identity()
        del model.blocks[1].norm2
        model.blocks[2].mlp.fc1.weight = nn.Parameter(torch.zeros(1))
        with torch.no_grad():
            model.blocks[1].attn.qkv.bias.zero_()  # trained in place by the method before: a copy is there
        raise {"PetlError": petl.SiteError, "bug": ZeroDivisionError, "ctrl-c": KeyboardInterrupt}[self.error]("late")


class _Twice(petl.WeightGraft):
    """Twice the weight."""

    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(2.0))

    def change(self, weight: Tensor) -> Tensor:
        return weight * self.by


@pytest.mark.parametrize("error", ["PetlError", "bug", "ctrl-c"])
def test_the_third_method_fails_in_the_middle(error: str) -> None:
    model = make("vit").train()
    model.head.weight.requires_grad_(False)
    before, expected = portrait(model), output(make("vit"), images("vit"))
    with pytest.raises((petl.SiteError, ZeroDivisionError, KeyboardInterrupt)):
        petl.wrap(model, ["bias", petl.LoRA(rank=2), FailsLate(error=error)], num_classes=5)
    assert portrait(model) == before
    assert torch.equal(output(model, images("vit")), expected)
    petl.wrap(model, "lora", num_classes=5)  # and it can be wrapped


def test_wrapping_twice() -> None:
    model = disturb(petl.wrap(make("vit"), "lora", num_classes=5))
    before = portrait(model)
    with pytest.raises(petl.StateError, match="wrapped already"):
        petl.wrap(model, "adapter")
    assert portrait(model) == before
    compiled = torch.compile(make("vit"), backend="eager")
    with pytest.raises(petl.StateError, match="wrap it first"):
        petl.wrap(compiled, "lora")
    with pytest.raises(petl.StateError, match=r"nn\.Module"):
        petl.wrap("test_vit", "lora")


def test_batchnorm_on_norm_free_nets_suggests_others() -> None:
    for method in ("bn", "norm"):
        with pytest.raises(petl.SiteError, match="'bias' or 'lora'"):
            petl.wrap(make("nfnet"), method, num_classes=5)


def test_a_module_with_an_attribute_of_that_name() -> None:
    """Never take a model's own attribute for a graft, nor overwrite it."""
    model = make("vit")
    model.blocks[2].mlp.fc1.lora = "the user's"
    before = portrait(model)
    with pytest.raises(petl.SiteError, match="already has an attribute 'lora'"):
        petl.wrap(model, "lora")
    assert portrait(model) == before and model.blocks[2].mlp.fc1.lora == "the user's"


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


# ---- summary, param_groups


def test_summary_counts_by_hand() -> None:
    model = petl.wrap(make("resnet"), ["bn", petl.LoRA(rank=2)], num_classes=5)
    rows = {row.name: row for row in petl.summary(model)}
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    channels = sum(m.num_features for m in norms)
    assert rows["bn"].sites == len(norms) and rows["bn"].tensors == 5 * len(norms)
    assert rows["bn"].bytes == 4 * 4 * channels + 8 * len(norms)
    lora = {n: p for n, p in model.named_parameters() if ".lora." in n}
    assert rows["lora"].trainable == sum(p.numel() for p in lora.values()) and rows["lora"].tensors == len(lora)
    head = sum(p.numel() for p in model.get_classifier().parameters())
    assert rows["head"].trainable == head and rows["head"].bytes == 4 * head
    base = sum(p.numel() for n, p in model.named_parameters() if ".lora." not in n)
    assert rows["head"].share == pytest.approx(head / base)
    assert petl.summary(model).bytes == sum(row.bytes for row in rows.values())
    assert rows["bn"].trainable == 2 * channels, "running statistics don't train"
    assert petl.summary(model).trainable == sum(p.numel() for p in petl.trainable(model).values())
    table = repr(petl.summary(model)).splitlines()
    assert [line.split()[0] for line in table[:5]] == ["method", "bn", "lora", "head", "total"]


def test_param_groups_hold_what_trains_once() -> None:
    model = petl.wrap(make("vit"), ["bias", petl.LoRA(rank=2)], num_classes=5)
    for layer_decay in (None, 0.5):
        groups = petl.param_groups(model, lr=1e-2, layer_decay=layer_decay, weight_decay=0.05)
        held = [id(p) for group in groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in petl.trainable(model).values())
        decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
        assert decayed == {id(p) for p in petl.trainable(model).values() if p.ndim > 1}
        assert max(group["lr"] for group in groups) == 1e-2
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    by_block = [rates[id(model.blocks[i].attn.qkv.lora.up)] for i in range(3)]
    assert by_block == sorted(by_block) and by_block[1] == pytest.approx(2 * by_block[0])


# ---- other people's methods


@pytest.mark.deep
@petl.register("tests-scale")
@dataclass(frozen=True, kw_only=True)
class Scale(petl.Method):
    """A factor per output of linear layers, as a user would write it."""

    where: petl.Where = "linear"
    start: float = 1.0

    def adapt(self, module: nn.Module, site: petl.Site) -> None:
        petl.grow(module, "scale", Factor(site.shape[0], self.start))


class Factor(petl.WeightGraft):
    """Row factors."""

    def __init__(self, rows: int, start: float):
        super().__init__()
        self.factor = nn.Parameter(torch.full((rows, 1), start))

    def change(self, weight: Tensor) -> Tensor:
        return weight * self.factor


def test_a_method_of_the_users_own_keeps_the_contract() -> None:
    report = petl.check(make("vit"), images("vit"), "tests-scale", num_classes=5)
    assert report.ok and {f.status for f in report} == {"pass"}, report
    both = petl.check(make("beit"), images("beit"), ["tests-scale", "bias", "lora"])
    assert both.ok, both


def test_a_name_can_be_registered_once() -> None:
    with pytest.raises(petl.MethodError, match="registered already"):

        @petl.register("lora")
        @dataclass(frozen=True, kw_only=True)
        class Mine(petl.Method):
            """Not LoRA."""

    assert petl.methods()["lora"] is petl.LoRA


@pytest.mark.parametrize("method", ["probe", "bn", "bias", "partial", "full"])
def test_a_model_on_meta_wraps_and_unwraps(method: str) -> None:
    with torch.device("meta"):
        model = timm.create_model("test_resnet")
    keys = list(model.state_dict())
    petl.wrap(model, method, num_classes=5)
    assert all(p.is_meta for p in model.parameters()) and petl.trainable(model)
    assert list(petl.unwrap(model).state_dict()) == keys
