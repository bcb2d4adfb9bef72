"""The methods by name: registering them, and building them from names, options and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from petl.errors import MethodError, near
from petl.methods.method import Method

_REGISTRY: dict[str, type[Method]] = {}
_Kind = TypeVar("_Kind", bound="type[Method]")


def register(name: str) -> Callable[[_Kind], _Kind]:
    """Class decorator: make a Method known as ``name``, to ``wrap``, the command line and delta files.

    >>> import petl, dataclasses
    >>> @petl.register("everything-but-norms")
    ... @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class EverythingButNorms(petl.Method):
    ...     where: petl.Where = ("linear", "conv", "depthwise")
    ...     def trains(self, module, site):
    ...         return ["weight"]
    >>> "everything-but-norms" in petl.methods()
    True
    """

    def keep(cls: _Kind) -> _Kind:
        if name in _REGISTRY and _REGISTRY[name].__qualname__ != cls.__qualname__:
            raise MethodError(f"a method {name!r} is registered already by {_REGISTRY[name].__module__}")
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return keep


def methods() -> dict[str, type[Method]]:
    """All registered methods by name."""
    return dict(_REGISTRY)


def method_class(name: str) -> type[Method]:
    """The class registered as ``name``, or a MethodError with near names."""
    if name not in _REGISTRY:
        raise MethodError(f"no method {name!r}{near(name, _REGISTRY)}; known: {', '.join(sorted(_REGISTRY))}")
    return _REGISTRY[name]


def method_from_json(values: Mapping[str, Any]) -> Method:
    """The method that ``Method.to_json`` described."""
    return method_class(values["name"]).from_values({k: v for k, v in values.items() if k != "name"})


def check_method_values(values: Mapping[str, Any]) -> None:
    """A MethodError where a recipe asks a known method for what it doesn't do; unknown methods may be registered later."""
    if values["name"] in _REGISTRY:
        try:
            method_from_json(values)
        except (TypeError, ValueError, AttributeError) as error:  # of values of a kind that no method expects
            raise MethodError(f"{values['name']}: {error}") from None


def resolve(asked: Any, options: Mapping[str, Any]) -> list[Method]:
    """What the user passed to ``wrap`` (a name, a Method, a peft config, or a list of these) as a list of methods."""
    one = asked if isinstance(asked, (list, tuple)) else [asked]
    if not one:
        raise MethodError("wrap got an empty list of methods; name at least one, such as 'lora'")
    if options and not (len(one) == 1 and isinstance(one[0], str)):
        raise MethodError(
            f"the options {', '.join(options)} go to a single method given by name, but wrap got {asked!r}; "
            f"give options inside the methods, such as petl.LoRA(rank=16)"
        )
    return [_method(item, options) for item in one]


def _method(item: Any, options: Mapping[str, Any]) -> Method:
    if isinstance(item, Method):
        return item
    if isinstance(item, str):
        name, _, rest = item.partition(":")
        return method_class(name).from_text(rest, options)
    for cls in _REGISTRY.values():
        if (method := cls.from_foreign(item)) is not None:
            return method
    raise MethodError(f"wrap got {item!r} as a method; give a name ({', '.join(sorted(_REGISTRY))}) or a Method object")
