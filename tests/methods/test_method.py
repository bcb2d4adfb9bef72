"""Options of methods: what none can have, and that they are plain values."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import petl
from tests.support.zoo import make


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {"rank": 0}),
        ("lora", {"rank": -3}),
        ("lora", {"slices": "xyz"}),
        ("lora", {"slices": ""}),
        ("lora", {"slices": "qv", "dora": True}),
        ("input", {"in_chans": 0}),
        ("adapter", {"bottleneck": 0}),
        ("adapter", {"kernel": 2}),
        ("bn", {"stats": "move"}),
        ("bn", {"affine": False, "stats": "keep"}),
        ("partial", {"last": 0}),
        ("partial", {"last": -1, "first": 2}),
        ("full", {"stats": True}),
        ("lora", {"rnak": 8}),
    ],
)
def test_options_that_no_method_can_have(method: str, options: dict[str, Any]) -> None:
    with pytest.raises(petl.MethodError, match=method):
        petl.wrap(make("vit"), method, **options)


@pytest.mark.parametrize(("method", "name"), [("lora", "vit"), ("norm", "vit"), ("bn", "resnet")])
def test_patterns_take_only_what_the_method_can_change(method: str, name: str) -> None:
    """A pattern that also matches containers and other layers means those of the method's kind inside."""
    where = "blocks.0.*" if name == "vit" else "layer1.*"
    model = petl.wrap(make(name), method, where=where, head=False)
    kinds = {"lora": (nn.Linear, nn.Conv2d), "norm": (nn.LayerNorm,), "bn": (nn.BatchNorm2d,)}[method]
    inside = {n for n, m in make(name).named_modules() if n.startswith(where[:-1]) and isinstance(m, kinds)}
    assert {*petl.record(model).sites[0]} == inside
    with pytest.raises(petl.SiteError, match=method):
        petl.wrap(make("vit"), method, where="pos_drop" if method != "lora" else "blocks.0.norm1")


@pytest.mark.parametrize(("option", "value"), [("rank", "8"), ("rank", 2.5), ("alpha", "big"), ("rank", True)])
def test_options_of_the_wrong_type(option: str, value: Any) -> None:
    with pytest.raises(petl.MethodError, match=option):
        petl.wrap(make("vit"), "lora", **{option: value})


@pytest.mark.parametrize(
    "name", sorted(n for n, c in petl.methods().items() if c.__module__.startswith("petl.methods."))
)
def test_methods_are_plain_values(name: str) -> None:
    import json

    from petl.methods.registry import method_from_json

    cls = petl.methods()[name]
    method = cls()
    assert method_from_json(json.loads(json.dumps(method.to_json()))) == method
    with pytest.raises(AttributeError):
        method.where = "linear"  # type: ignore[misc]  # frozen
    with pytest.raises(TypeError):
        cls("linear")  # keyword-only
