"""What a method is: frozen plain values that say where to go and what to do there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from petl.errors import MethodError, SiteError, near
from petl.methods.rates import TrainedTensor, rate_for
from petl.sites.selection import select
from petl.sites.sites import Site, Sites, Where
from petl.sites.survey import Survey


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods.

    ``plan`` chooses the sites. Then a method names tensors that train in place (``trains``), or grows grafts (``adapt``).
    Everything else is done by ``wrap``: freezing, the head, norms, undoing and saving.
    """

    name: ClassVar[str] = ""
    where: Where = ()

    def __post_init__(self) -> None:
        """Refuses values of another type than the default's; methods with more to refuse call this first."""
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
        """Returns the sites to go to, and changes nothing.

        Raises:
            SiteError: the method has nothing to do in this model.
        """
        sites = Sites(site for site in select(survey, self.where) if self.fits(survey.modules[site.name]))
        if not sites:
            raise SiteError(
                f"{self.name}: nothing in {type(survey.model).__name__} plays where={self.where!r}{self.hint()}; "
                f"print(petl.find(model)) lists the places"
            )
        return sites

    def restore_sites(self, survey: Survey, sites: Sites) -> Sites:
        """Returns the sites that a delta's recipe names, as ``plan`` did; for methods that need more than a Site holds."""
        return sites

    def fits(self, module: nn.Module) -> bool:
        """Returns whether the method is for this module: of all that a pattern matches, the others are left out."""
        return True

    def hint(self) -> str:
        """Returns what to try where the method has no site: a continuation of the error, such as ``; try bias``."""
        return ""

    def trains(self, module: nn.Module, site: Site) -> Iterable[str]:
        """Returns the names of the module's own parameters and buffers that train in place."""
        return ()

    def adapt(self, module: nn.Module, site: Site) -> None:
        """Grows grafts on the module."""

    def apply(self, model: nn.Module, sites: Sequence[Site]) -> None:
        """Adapts every site; only methods that need the whole model override this."""
        for site in sites:
            self.adapt(model.get_submodule(site.name), site)

    def rate(self, tensor: TrainedTensor) -> float:
        """Returns the learning rate of one of the method's tensors where nobody says one: AdamW's, at the top of the schedule.

        A method that doesn't declare its rates has that of full fine-tuning for the base's own tensors, and a cautious one for
        what it grows (`petl.methods.rates`).
        """
        return rate_for("full" if tensor.in_place else "new", tensor)

    def to_json(self) -> dict[str, Any]:
        """Returns the method as plain JSON values; ``method_from_json`` builds the equal method from them."""
        return {"name": self.name, **dataclasses.asdict(self)}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Method:
        """Returns the method with these field values, lists as tuples; an unknown field is a MethodError."""
        fields = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in fields:
                raise MethodError(f"{cls.name} has no option {key!r}{near(key, fields)}; it has {', '.join(fields)}")
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


def _is_a(value: Any, kind: type) -> bool:
    """Returns whether the value fits an option of this type: True is no number, an int is a float, infinity and nan are none."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and abs(value) < float("inf")
    return isinstance(value, kind)
