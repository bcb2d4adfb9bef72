"""The methods by name: registering them, and building them from names, options and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from petl.errors import MethodError, near
from petl.methods.foreign import ForeignMethod
from petl.methods.method import Method

_REGISTRY: dict[str, type[Method]] = {}
RESERVED = "best"  # the name of the best recipe, which is several methods
_Kind = TypeVar("_Kind", bound="type[Method]")


def register(name: str) -> Callable[[_Kind], _Kind]:
    """Makes a Method known as ``name``, to ``wrap``, the command line and delta files: a class decorator.

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
        if name == RESERVED:
            raise MethodError(
                f"{name!r} is the name of the recipe that petl.wrap(model) applies; give the method another"
            )
        if name in _REGISTRY and _REGISTRY[name].__qualname__ != cls.__qualname__:
            raise MethodError(f"a method {name!r} is registered already by {_REGISTRY[name].__module__}")
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return keep


def methods() -> dict[str, type[Method]]:
    """Returns all registered methods by name."""
    return dict(_REGISTRY)


def method_class(name: str) -> type[Method]:
    """Returns the class that is registered as ``name``; for an unknown name, a MethodError names near ones."""
    if name not in _REGISTRY:
        raise MethodError(
            f"no method {name!r}{near(name, [*_REGISTRY, RESERVED])}; known: {', '.join(sorted(_REGISTRY))}"
        )
    return _REGISTRY[name]


def method_from_json(values: Mapping[str, Any]) -> Method:
    """Returns the method that ``Method.to_json`` described."""
    return method_class(values["name"]).from_values({k: v for k, v in values.items() if k != "name"})


def check_method_values(values: Mapping[str, Any]) -> None:
    """Raises a MethodError where a recipe has options that its method doesn't take; unknown methods may be registered later."""
    if values["name"] in _REGISTRY:
        try:
            method_from_json(values)
        except (TypeError, ValueError, AttributeError) as error:  # of values of a kind that no method expects
            raise MethodError(f"{values['name']}: {error}") from None


def resolve(asked: Any, options: Mapping[str, Any]) -> list[Method]:
    """Returns what the user passed to ``wrap`` (a name, a Method, a peft config, or a list of these) as a list of methods."""
    items = asked if isinstance(asked, (list, tuple)) else [asked]
    if not items:
        raise MethodError("wrap got an empty list of methods; name at least one, such as 'lora'")
    if options and not (len(items) == 1 and isinstance(items[0], str)):
        refuse_shared_options(asked, options)
    return [_method(item, options) for item in items]


def refuse_shared_options(asked: Any, options: Mapping[str, Any]) -> NoReturn:
    """Raises the MethodError for options that nobody can take."""
    raise MethodError(
        f"the options {', '.join(options)} go to a single method given by name, but wrap got {asked!r}; "
        f"give options inside the methods, such as petl.LoRA(rank=16)"
    )


def _method(item: Any, options: Mapping[str, Any]) -> Method:
    if isinstance(item, Method):
        return item
    if isinstance(item, str):
        name, _, text = item.partition(":")
        return _named(method_class(name), text, options)
    for cls in _REGISTRY.values():
        if issubclass(cls, ForeignMethod) and (method := cls.from_foreign(item)) is not None:
            return method
    raise MethodError(f"wrap got {item!r} as a method; give a name ({', '.join(sorted(_REGISTRY))}) or a Method object")


def _named(cls: type[Method], text: str, options: Mapping[str, Any]) -> Method:
    """Returns the method that the user named as ``name`` or ``name:text``; only methods of other libraries take a text."""
    if issubclass(cls, ForeignMethod):
        return cls.from_text(text, options)
    if text:
        raise MethodError(f"{cls.name}:{text}: {cls.name} takes nothing after a colon; give options as keywords")
    return cls.from_values(options)
