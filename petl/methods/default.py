"""The methods that `petl.wrap(model)` applies where nobody names one: the best recipe that is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from petl.errors import MethodError, PetlError, near
from petl.methods.lora import LoRA
from petl.methods.method import Method
from petl.methods.norm import Norm
from petl.methods.registry import RESERVED, refuse_shared_options, resolve
from petl.sites.family import Family, family_of
from petl.sites.layers import is_layer

RECIPES: dict[Family, tuple[Method, ...]] = {
    "cnn": (Norm(), LoRA(rank=16, alpha=16.0, where=("linear", "conv", "depthwise"))),
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


def methods_for(model: nn.Module, asked: Any, options: Mapping[str, Any]) -> list[Method]:
    """Returns what the user passed to ``wrap`` as a list of methods, with those of the best recipe for None and "best".

    Raises:
        MethodError: what was passed is no method, or an option fits none.
    """
    if asked is None or _is_best(asked):
        return with_options(best_methods(model), options)
    if not isinstance(asked, (list, tuple)) or not _has_best(asked):
        return resolve(asked, options)
    named = resolve([one for one in asked if not _is_best(one)], {}) if len(asked) > 1 else []
    if options:
        refuse_shared_options(asked, options)
    known = {method.name for method in named}
    recipe = [method for method in best_methods(model) if method.name not in known]
    at = next(place for place, one in enumerate(asked) if _is_best(one))
    return [*named[:at], *recipe, *named[at:]]


def refuse_asked(asked: Any, options: Mapping[str, Any]) -> None:
    """Raises a MethodError, before a model is looked at, for what ``methods_for`` would refuse for any model."""
    methods_for(nn.Identity(), asked, options)


def with_options(methods: list[Method], options: Mapping[str, Any]) -> list[Method]:
    """Returns the methods, each with those of the options that it has: ``petl.wrap(model, rank=16)``.

    Raises:
        MethodError: an option that none of them has.
    """
    known = {method.name: [field.name for field in dataclasses.fields(method)] for method in methods}
    for key in options:
        if not any(key in fields for fields in known.values()):
            fields = sorted({field for own in known.values() for field in own})
            names = " and ".join(known)
            raise MethodError(f"{names} have no option {key!r}{near(key, fields)}; they have {', '.join(fields)}")
    own = [{key: value for key, value in options.items() if key in known[method.name]} for method in methods]
    return [type(m).from_values({**option_values(m), **new}) for m, new in zip(methods, own, strict=True)]


def option_values(method: Method) -> dict[str, Any]:
    """Returns a method's options by name."""
    return {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}


def method_text(method: Method) -> str:
    """Returns a method's name, with the options that differ from its defaults.

    >>> import petl
    >>> method_text(petl.LoRA(rank=4)), method_text(petl.Norm())
    ('lora(rank=4)', 'norm')
    """
    try:
        defaults = option_values(type(method)())
    except (TypeError, PetlError):  # it can't be made without options
        defaults = {}
    changed = {key: value for key, value in option_values(method).items() if defaults.get(key) != value}
    return (
        f"{method.name}({', '.join(f'{key}={value!r}' for key, value in changed.items())})" if changed else method.name
    )


def _is_best(item: Any) -> bool:
    return isinstance(item, str) and item == RESERVED


def _has_best(items: Sequence[Any]) -> bool:
    return any(_is_best(item) for item in items)
