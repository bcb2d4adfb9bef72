"""The backbone is built again as it was made, or one error says that it can't be."""

from __future__ import annotations

import functools
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import petl
from petl.sites.survey import classifier_names
from petl.wrapping.backbone_size import refuse_huge
from petl.wrapping.structure import differences, structure
from tests.support.zoo import make, output

CREATED: dict[str, tuple[str, dict[str, Any]]] = {
    "pooling": ("test_resnet", {"global_pool": "max"}),
    "several poolings": ("test_convnext", {"global_pool": "avgmax"}),
    "output stride": ("test_resnet", {"output_stride": 16}),
    "activation by name": ("test_vit", {"act_layer": "relu"}),
    "activation by class": ("test_vit", {"act_layer": nn.LeakyReLU}),
    "norm by class": ("test_resnet", {"norm_layer": nn.BatchNorm2d, "act_layer": nn.SiLU}),
    "epsilon": ("test_efficientnet", {"bn_eps": 0.1}),
    "padding": ("test_efficientnet", {"pad_type": "same"}),
    "heads": ("test_vit", {"num_heads": 4}),
    "image size": ("test_vit", {"img_size": 96}),
    "rates": ("test_vit", {"drop_path_rate": 0.3, "drop_rate": 0.2}),
    "channels": ("test_resnet", {"in_chans": 5, "stem_type": "deep"}),
    "no classes but ours": ("test_vit", {"global_pool": "avg", "class_token": False}),
}


def side(model: nn.Module) -> int:
    return model.patch_embed.img_size[0] if hasattr(model, "patch_embed") else 64


@pytest.mark.sweep(2)
@pytest.mark.parametrize("what", CREATED)
def test_creation_arguments_are_recorded_by_themselves(what: str, tmp_path: Path) -> None:
    name, args = CREATED[what]
    torch.manual_seed(3)
    model = petl.wrap(timm.create_model(name, num_classes=4, **args), "lora")
    path = petl.save(model, tmp_path / "d.safetensors")
    torch.manual_seed(3)
    again = petl.load(path, pretrained=False)
    x = torch.randn(2, args.get("in_chans", 3), side(model), side(model))
    assert torch.equal(output(again, x), output(model, x))
    for key in ("drop_path_rate", "drop_rate"):
        assert petl.read(path)["backbone"]["args"].get(key) == args.get(key)
    assert petl.read(petl.save(again, path))["backbone"] == petl.read(path)["backbone"]


@pytest.mark.parametrize("what", ["pooling", "epsilon", "padding", "heads"])
@pytest.mark.sweep(2)
def test_equal_weights_in_another_structure_are_refused(what: str, tmp_path: Path) -> None:
    name, args = CREATED[what]
    model = timm.create_model(name, num_classes=4, **args)
    other = timm.create_model(name, num_classes=4)
    other.load_state_dict(model.state_dict())
    path = petl.save(petl.wrap(model, "lora"), tmp_path / "d.safetensors")
    with pytest.raises(petl.DeltaError, match="differ in its modules"):
        petl.load(path, other)
    assert petl.record(other) is None


def test_what_can_not_be_recorded_is_said_and_the_model_passed(tmp_path: Path) -> None:
    norm = functools.partial(nn.LayerNorm, eps=0.1)
    with pytest.warns(UserWarning, match="norm_layer"):
        model = petl.wrap(timm.create_model("test_vit", num_classes=4, norm_layer=norm), "lora")
    path = petl.save(model, tmp_path / "d.safetensors")
    with pytest.raises(petl.DeltaError, match=r"norm_layer.*petl\.load\(path, model\)"):
        petl.load(path, pretrained=False)
    again = timm.create_model("test_vit", num_classes=4, norm_layer=norm)
    again.load_state_dict({k: v for k, v in model.state_dict().items() if "lora" not in k})
    x = torch.randn(1, 3, 160, 160)
    assert torch.equal(output(petl.load(path, again), x), output(model, x))


AFTERWARDS: dict[str, tuple[str, Callable[[Any], Any], bool]] = {  # name, change, whether load can repeat it by itself
    "reset with another pooling": ("test_resnet", lambda m: m.reset_classifier(4, global_pool="max"), True),
    "pooling": ("test_vit", lambda m: setattr(m, "global_pool", "avg"), False),
    "activation": ("test_resnet", lambda m: setattr(m, "act1", nn.Tanh()), False),
    "epsilon": ("test_resnet", lambda m: setattr(m.bn1, "eps", 0.5), False),
    "dilation": ("test_resnet", lambda m: vars(m.conv1[0]).update(dilation=(2, 2), padding=(2, 2)), False),
    "pooling layer": ("test_resnet", lambda m: setattr(m, "maxpool", nn.AvgPool2d(3, 2, 1)), False),
}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", AFTERWARDS)
def test_a_model_that_was_changed_is_repeated_or_refused(what: str, when: str, tmp_path: Path) -> None:
    """Before ``wrap`` or after it; passed with the same change it always works."""
    name, change, repeats = AFTERWARDS[what]

    def changed() -> nn.Module:
        torch.manual_seed(3)
        model = timm.create_model(name, num_classes=4)
        change(model)
        return model

    torch.manual_seed(3)
    model = petl.wrap(changed() if when == "before" else timm.create_model(name, num_classes=4), "lora")
    change(model) if when == "after" else None
    path, x = petl.save(model, tmp_path / "d.safetensors"), torch.randn(2, 3, side(model), side(model))
    torch.manual_seed(3)
    if repeats:
        assert torch.equal(output(petl.load(path, pretrained=False), x), output(model, x))
    else:
        with pytest.raises(petl.DeltaError, match="differ in its modules"):
            petl.load(path, pretrained=False)
    assert torch.equal(output(petl.load(path, changed()), x), output(model, x))


def test_another_size_of_images_is_built_again(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=4)
    model.set_input_size((96, 96))
    path = petl.save(petl.wrap(model, "lora"), tmp_path / "d.safetensors")
    again = petl.load(path, pretrained=False, check_base=False)
    assert again.patch_embed.img_size == (96, 96)
    with pytest.raises(petl.DeltaError):
        petl.load(path, timm.create_model("test_vit", num_classes=4))


SURGERY = ["lora", "adapter", "bn", "input", "norm"]


@pytest.mark.parametrize("method", SURGERY)
def test_wrap_leaves_the_structure_alone(method: str) -> None:
    """So that what save notes is what load compares."""
    name = (
        "efficientnet" if method == "bn" else "swin" if method == "norm" else "vit" if method != "input" else "resnet"
    )
    model = make(name)
    head = classifier_names(model) or []
    before = structure(model, head)
    petl.wrap(model, method, num_classes=5)
    assert structure(model, head, grafted=False) == before == petl.record(model).structure
    petl.unwrap(model)
    assert structure(model, head) == before


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_merged_input_goes_through_timms_own_folder(name: str, tmp_path: Path) -> None:
    model = petl.merge(petl.wrap(timm.create_model(name, num_classes=4), "input", in_chans=5)).eval()
    assert model.in_chans == 5 == petl.in_chans(model)
    assert not differences(structure(model), structure(timm.create_model(name, num_classes=4, in_chans=5)))
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    x = torch.randn(1, 5, 160, 160)
    assert torch.equal(output(again, x), output(model, x))


def test_without_a_network_the_answer_comes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No second try, no sleep: the hub's client is told that it is offline, and told so no longer afterwards."""
    import time

    from huggingface_hub import constants

    def nowhere(*_: Any, **__: Any) -> Any:
        raise OSError("Network is unreachable")

    path = petl.save(petl.wrap(timm.create_model("test_resnet"), "bias"), tmp_path / "d.safetensors")
    naps: list[float] = []
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket, "create_connection", nowhere)
    monkeypatch.setattr(time, "sleep", naps.append)
    with pytest.raises(petl.DeltaError, match="test_resnet"):
        petl.load(path)
    assert not naps and constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize(
    ("name", "args", "shape"),
    [
        ("test_resnet", {"in_chans": 0}, "(16, 0, 3, 3)"),
        ("test_resnet", {"stem_width": 0}, ""),
        ("test_resnet", {"channels": [0, 0, 0, 0]}, ""),
        ("test_convnext", {"dims": (0, 1, 2, 3)}, ""),
    ],
)
def test_a_layer_without_a_number_is_refused_without_a_warning(name: str, args: dict[str, Any], shape: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Exception, match="without a number") as caught:
            refuse_huge(name, args, 0)
    assert shape in str(caught.value)
    refuse_huge("test_resnet", {"num_classes": 0}, 0)


@pytest.mark.parametrize(
    "args",
    [{"depth": 1_000_000}, {"depths": [9_000, 9_000, 9_000]}, {"x": {"depth": -200_000}}, {"depth_multiplier": 1e4}],
)
def test_sizes_that_are_slow_to_refuse_reach_nothing_of_timm(args: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm was asked"))
    with pytest.raises(Exception, match="20,000 in all"):
        refuse_huge("test_vit", args, 0)
