"""What a method is: frozen plain values that say where to go and what to do there; names, classes and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from petl.errors import MethodError, SiteError, near
from petl.sites.selection import select
from petl.sites.sites import Site, Sites, Where
from petl.sites.survey import Survey


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods. A method looks (``plan``), then names tensors that train in place (``trains``) or grows grafts
    (``adapt``); everything else, freezing, the head, norms, undoing and saving, is ``wrap``'s."""

    name: ClassVar[str] = ""
    exact: ClassVar[bool] = True  # whether merging gives bit-equal outputs
    reads_base: ClassVar[bool] = False  # whether it reads and writes the base's own tensors, not what the layers answer
    where: Where = ()

    def __post_init__(self) -> None:
        """Refuse values of another kind than the default's; methods with more to refuse call this first."""
        for option in dataclasses.fields(self):
            value, kind = getattr(self, option.name), type(option.default)
            if kind in (bool, int, float, str) and option.name != "where" and not _is_a(value, kind):
                raise MethodError(
                    f"{self.name}: {option.name}={value!r}; expected {kind.__name__}, such as {option.default!r}"
                )
        names = [self.where] if isinstance(self.where, str) else self.where
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise MethodError(f"{self.name}: where={self.where!r}; expected a role or a name, or a list of them")

    def plan(self, survey: Survey) -> Sites:
        """The sites to go to. Only looks; raises SiteError where there is nothing to do."""
        sites = Sites(site for site in select(survey, self.where) if self.fits(survey.modules[site.name]))
        if not sites:
            raise SiteError(
                f"{self.name}: nothing in {type(survey.model).__name__} plays where={self.where!r}{self.advice()}; "
                f"print(petl.find(model)) lists the places"
            )
        return sites

    def recalled(self, survey: Survey, sites: Sites) -> Sites:
        """The sites that a delta's recipe names, as ``plan`` gave them; for methods that need more than a Site says."""
        return sites

    def fits(self, module: nn.Module) -> bool:
        """Whether the method is for this module: of all that a pattern matches, the others are left out."""
        return True

    def advice(self) -> str:
        """What to try where the method finds no site: a continuation of the error, such as ``; try bias``."""
        return ""

    def trains(self, module: nn.Module, site: Site) -> Iterable[str]:
        """Names of the module's own parameters and buffers that train in place."""
        return ()

    def adapt(self, module: nn.Module, site: Site) -> None:
        """Grow grafts on the module."""

    def apply(self, model: nn.Module, sites: Sequence[Site]) -> None:
        """Adapt every site; only methods that must see the whole model replace this."""
        for site in sites:
            self.adapt(model.get_submodule(site.name), site)

    def merge(self, model: nn.Module) -> None:
        """Fold what isn't a weight graft of petl's, which ``merge`` folds by itself; all or nothing."""

    def to_json(self) -> dict[str, Any]:
        """The method as plain JSON values; ``from_json`` gives the equal method back."""
        return {"name": self.name, **dataclasses.asdict(self)}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Method:
        """The method with these field values, lists made tuples; an unknown field is a MethodError."""
        fields = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in fields:
                raise MethodError(f"{cls.name} has no option {key!r}{near(key, fields)}; it has {', '.join(fields)}")
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})

    @classmethod
    def from_text(cls, text: str, options: Mapping[str, Any]) -> Method:
        """The method that the user named as ``name`` or ``name:text``; only methods that reach further take a text."""
        if text:
            raise MethodError(f"{cls.name}:{text}: {cls.name} takes nothing after a colon; give options as keywords")
        return cls.from_values(options)

    @classmethod
    def from_foreign(cls, item: Any) -> Method | None:
        """This method made of another library's configuration object, or None if the object is not its business."""
        return None


def _is_a(value: Any, kind: type) -> bool:
    """Whether the value fits an option of this kind; True is no number, an int is a float, infinity and nan are none."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and abs(value) < float("inf")
    return isinstance(value, kind)
