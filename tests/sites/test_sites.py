"""`petl.find`: names, patterns and lists of places."""

from __future__ import annotations

import pytest

import petl
from tests.support.places import names
from tests.support.zoo import make


def test_patterns_full_names_and_lists() -> None:
    model = make("vit")
    assert names(model, "blocks.*.attn.qkv") == [f"blocks.{i}.attn.qkv" for i in range(3)]
    assert names(model, "blocks.1.mlp.fc1") == ["blocks.1.mlp.fc1"]
    assert names(model, ["blocks.1.mlp.fc1", "blocks.0.attn.qkv", "blocks.1.mlp.fc1"]) == [
        "blocks.0.attn.qkv",
        "blocks.1.mlp.fc1",
    ]
    assert names(model, "blocks.[02].attn.proj") == ["blocks.0.attn.proj", "blocks.2.attn.proj"]
    assert {*names(model, ("linear", "conv"))} == {*names(model, "linear"), *names(model, "conv")}


def test_patterns_are_full_names_never_suffixes() -> None:
    with pytest.raises(petl.SiteError, match=r"'qkv'.*near names"):
        petl.find(make("vit"), "qkv")


@pytest.mark.parametrize(
    ("where", "near"), [("linaer", "linear"), ("blocks.9.attn.qkv", "blocks.0.attn.qkv"), ("Conv", "conv")]
)
def test_unknown_places_get_near_names(where: str, near: str) -> None:
    with pytest.raises(petl.SiteError, match=f"(?s){where}.*near names.*{near}"):
        petl.find(make("vit"), where)


def test_a_role_that_nobody_plays_is_an_empty_answer() -> None:
    assert petl.find(make("vit"), "batchnorm") == []


def test_sites_print_as_a_table() -> None:
    table = repr(petl.find(make("vit"), ["blocks.0.attn.qkv", "stem"])).splitlines()
    assert table[0].split() == ["name", "kind", "weight", "roles"]
    assert table[1].split() == ["patch_embed.proj", "Conv2d", "64x3x16x16", "conv", "stem"]
    assert table[2].split() == ["blocks.0.attn.qkv", "Linear", "192x64", "linear"]


def test_a_shared_module_is_one_site() -> None:
    model = make("coat")
    found = names(model, "all")
    assert len(found) == len(set(found))
    assert len({id(model.get_submodule(n)) for n in found}) == len(found)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", ["vit", "resnet", "beit", "swin", "efficientnet_same"])
def test_find_on_a_wrapped_model(name: str) -> None:
    """What has grown is no place of its own, and the rest is where it was."""
    model = make(name)
    before = petl.find(model, "all")
    petl.wrap(model, [petl.LoRA(where=("linear", "conv", "depthwise")), "adapter"], head=False)
    assert petl.find(model, "all") == before
