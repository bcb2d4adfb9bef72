"""The methods that `petl.wrap(model)` applies where nobody names one: the best recipe that is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from petl.errors import MethodError, near
from petl.methods.lora import LoRA
from petl.methods.method import Method
from petl.methods.norm import Norm
from petl.sites.family import Family, family_of
from petl.sites.layers import is_layer

BEST = "best"  # the name of the recipe among names of methods
RECIPES: dict[Family, tuple[Method, ...]] = {
    "cnn": (Norm(), LoRA()),
    "transformer": (Norm(), LoRA()),
}


def best_methods(model: nn.Module) -> list[Method]:
    """Returns the methods of the best recipe for this model: of its family, without those that have nothing to do there.

    >>> import timm
    >>> [method.name for method in best_methods(timm.create_model("test_vit"))]
    ['norm', 'lora']
    """
    recipe, modules = RECIPES[family_of(model)], list(model.modules())
    layers = [module for module in modules if is_layer(module)]
    kept = [m for m in recipe if any(m.fits(module) for module in (modules if isinstance(m, Norm) else layers))]
    return kept or list(recipe)


def with_options(methods: list[Method], options: Mapping[str, Any]) -> list[Method]:
    """Returns the methods, each with those of the options that it has: ``petl.wrap(model, rank=16)``.

    Raises:
        MethodError: an option that none of them has.
    """
    known = {method.name: [field.name for field in dataclasses.fields(method)] for method in methods}
    for key in options:
        if not any(key in fields for fields in known.values()):
            fields = sorted({field for own in known.values() for field in own})
            raise MethodError(
                f"{' and '.join(known)} have no option {key!r}{near(key, fields)}; they have {', '.join(fields)}"
            )
    own = [{key: value for key, value in options.items() if key in known[method.name]} for method in methods]
    return [type(m).from_values({**_values(m), **new}) for m, new in zip(methods, own, strict=True)]


def _values(method: Method) -> dict[str, Any]:
    return {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
