"""timm's models in other shapes: as feature extractors, dilated, resized, halved, on meta, reset, reparameterised."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import petl
from tests.support.zoo import disturb, images, lively, make, output

LEVIT_S8: dict[str, Any] = {"embed_dim": (16, 32, 48), "num_heads": (1, 2, 3), "depth": (1, 1, 1), "key_dim": 8}


def leaves(model: nn.Module, batch: Tensor) -> list[Tensor]:
    return tree_leaves(output(model, batch))


def same(one: nn.Module, other: nn.Module, batch: Tensor) -> bool:
    pairs = zip(leaves(one, batch), leaves(other, batch), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def untrained(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **arguments).eval()


VARIANTS: dict[str, tuple[str, dict[str, Any], tuple[int, int], dict[str, Any]]] = {
    "features of a list": ("test_resnet", {"features_only": True}, (64, 64), {"head": False}),
    "chosen features": ("test_convnext", {"features_only": True, "out_indices": (1, 3)}, (64, 64), {"head": False}),
    "features of a ViT": ("test_vit", {"features_only": True, "img_size": 64}, (64, 64), {"head": False}),
    "features of their own class": ("test_efficientnet", {"features_only": True}, (64, 64), {"head": False}),
    "stride 8": ("test_resnet", {"output_stride": 8}, (64, 64), {"create_args": {"output_stride": 8}}),
    "stride 16": ("resnet18", {"output_stride": 16}, (64, 64), {"create_args": {"output_stride": 16}}),
    "another size": ("test_vit", {"img_size": (64, 96)}, (64, 96), {}),
    "any size": ("test_vit", {"dynamic_img_size": True}, (64, 96), {"create_args": {"dynamic_img_size": True}}),
    "no classes": ("test_vit", {"img_size": 64, "num_classes": 0}, (64, 64), {}),
    "stochastic depth": ("test_resnet", {"drop_path_rate": 0.3}, (64, 64), {}),
    "scriptable": ("test_efficientnet", {"scriptable": True}, (64, 64), {}),
}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("methods", ["lora", "norm", "adapter"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_save_load_merge_and_unwrap(variant: str, methods: str, tmp_path: Path) -> None:
    """Also onto the backbone that petl.load builds by itself from what the header says."""
    name, arguments, size, options = VARIANTS[variant]
    base, x = untrained(name, **arguments), torch.randn(2, 3, *size)
    model = disturb(petl.wrap(copy.deepcopy(base), methods, **options))
    path = petl.save(model, tmp_path / "delta.safetensors")
    assert not same(model, base, x)
    assert same(petl.load(path, copy.deepcopy(base)), model, x)
    again = petl.load(path, pretrained=False, check_base=False)
    assert [t.shape for t in leaves(again, x)] == [t.shape for t in leaves(model, x)]
    if methods != "adapter":
        assert same(petl.merge(copy.deepcopy(model)), model, x)
    assert same(petl.unwrap(model), base, x)


def test_the_first_classes_of_a_backbone_without_any(tmp_path: Path) -> None:
    base, x = untrained("test_vit", img_size=64, num_classes=0), images("vit")
    model = disturb(petl.wrap(copy.deepcopy(base), "lora", num_classes=5))
    path = petl.save(model, tmp_path / "delta.safetensors")
    assert output(model, x).shape == (3, 5) and same(petl.load(path, copy.deepcopy(base)), model, x)
    assert same(petl.unwrap(model), base, x)


def test_a_feature_extractor_has_no_classifier_and_says_so() -> None:
    with pytest.raises(petl.SiteError, match="head=False"):
        petl.wrap(untrained("test_resnet", features_only=True), "lora")


@pytest.mark.sweep(1)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_half_precision_models(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base, x = untrained(name).to(dtype), torch.randn(2, 1, 64, 64, dtype=dtype)
    methods = [petl.Input(in_chans=1), petl.LoRA(rank=2), "norm"]
    model = disturb(petl.wrap(copy.deepcopy(base), methods, num_classes=5))
    path = petl.save(model, tmp_path / "delta.safetensors")
    assert output(model, x).dtype == dtype and same(petl.load(path, copy.deepcopy(base)), model, x)
    assert output(petl.load(path, pretrained=False, check_base=False), x).dtype == dtype
    assert same(petl.merge(copy.deepcopy(model)), model, x)
    assert same(petl.unwrap(model), base, x.expand(-1, 3, -1, -1))


# ---- on the meta device


@pytest.mark.sweep(2)
@pytest.mark.parametrize("methods", ["lora", "norm"])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_built_on_meta_and_wrapped_before_it_has_values(name: str, methods: str, tmp_path: Path) -> None:
    """The delta of a materialised model is that of a model which always had its values; only unwrapping can't be."""
    arguments: dict[str, Any] = {"img_size": 64} if name == "test_vit" else {}
    base, x = untrained(name, **arguments), torch.randn(2, 3, 64, 64)
    expected = disturb(petl.wrap(copy.deepcopy(base), methods))
    with torch.device("meta"):
        model = petl.wrap(timm.create_model(name, **arguments), methods)
    assert all(p.is_meta for p in model.parameters())
    with pytest.warns(UserWarning, match="frozen tensors got other values by load_state_dict"):
        model.to_empty(device="cpu").load_state_dict(expected.state_dict())
    assert same(model, expected, x)
    path = petl.save(model, tmp_path / "delta.safetensors")
    assert same(petl.load(path, copy.deepcopy(base)), expected, x)
    with pytest.raises(petl.StateError, match="meta"):
        petl.unwrap(model)
    assert same(petl.merge(model), expected, x)


@pytest.mark.deep
def test_built_on_meta_and_materialised_before_wrapping() -> None:
    base = untrained("test_resnet")
    with torch.device("meta"):
        model = timm.create_model("test_resnet")
    model.to_empty(device="cpu").load_state_dict(base.state_dict())
    report = petl.check(lively(model), images("resnet"), ["lora", "bn"], num_classes=5)
    assert report.ok, report


def test_wrapping_what_is_compiled_says_what_to_do() -> None:
    with pytest.raises(petl.StateError, match="wrap it first"):
        petl.wrap(torch.compile(untrained("test_resnet"), backend="eager"), "lora")  # type: ignore[arg-type]


# ---- a classifier that the user resets after wrap


def _levit_s8() -> nn.Module:
    torch.manual_seed(0)
    return lively(timm.create_model("levit_384_s8", num_classes=11, **LEVIT_S8), 224)


RESET: dict[str, tuple[Callable[[], nn.Module], int, Any, dict[str, Any]]] = {
    "replaced already": (lambda: make("vit"), 64, "lora", {"num_classes": 5}),
    "the base's own": (lambda: make("vit"), 64, "lora", {}),
    "left alone": (lambda: make("vit"), 64, "lora", {"head": False}),
    "none before": (lambda: untrained("test_vit", img_size=64, num_classes=0), 64, "lora", {}),
    "of a CNN": (lambda: make("resnet"), 64, ["bn"], {}),
    "with a norm inside": (lambda: make("levit"), 224, "bias", {}),
    "with a norm, left alone": (lambda: make("levit"), 224, "bias", {"head": False}),
    "two, one not listed": (_levit_s8, 224, "probe", {"num_classes": 5}),
}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("case", RESET)
def test_a_classifier_reset_after_wrap_trains_is_saved_and_comes_off(case: str, tmp_path: Path) -> None:
    make_base, size, methods, options = RESET[case]
    base, x = make_base(), torch.randn(3, 3, size, size)
    before = set(base.state_dict())
    model = petl.wrap(copy.deepcopy(base), methods, **options)
    model.reset_classifier(9)  # type: ignore[operator]
    new = {key for key, p in model.named_parameters() if 9 in p.shape}
    assert new and new <= {*petl.trainable(model)}
    disturb(model).train()
    with torch.no_grad():
        model(x)  # moves the statistics of a norm inside the classifier
    assert leaves(model, x)[0].shape == (3, 9) and petl.summary(model).trainable == sum(
        p.numel() for p in petl.trainable(model).values()
    )
    path = petl.save(model, tmp_path / "delta.safetensors")
    assert petl.read(path)["backbone"]["num_classes"] == 9
    assert same(petl.load(path, copy.deepcopy(base)), model, x)
    merged = petl.merge(copy.deepcopy(model))
    assert same(merged, model, x) and (case == "none before" or {*merged.state_dict()} == before)
    assert same(petl.unwrap(model), base, x) and {*model.state_dict()} == before
    assert model.num_classes == base.num_classes


def test_levits_unlisted_second_classifier_is_found() -> None:
    made = petl.record(petl.wrap(_levit_s8(), "lora", num_classes=5))
    assert made and {*made.head} == {"head", "head_dist"}


@pytest.mark.parametrize("name", ["levit"])
def test_statistics_inside_a_trained_classifier_are_saved(name: str, tmp_path: Path) -> None:
    model = petl.wrap(make(name), "lora", num_classes=5)
    then = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("head.bn.running")}
    model.train()(images(name))
    now = model.state_dict()
    assert then and all(not torch.equal(value, now[key]) for key, value in then.items())
    path = petl.save(model, tmp_path / "delta.safetensors")
    assert same(petl.load(path, make(name)), model, images(name))
