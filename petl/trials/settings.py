"""What is compared: methods under their names, each with several learning rates, and the probe in closed form."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from petl.errors import MethodError, SiteError, listing
from petl.methods.default import method_text, methods_for
from petl.methods.method import Method
from petl.methods.probe import Probe
from petl.wrapping.wrap import wrap

FACTORS = (1 / 3, 1.0, 3.0)  # of petl's default rates
SHORTLIST = ("best", "norm", "lora", "adapter", "full")  # where nobody names methods, as far as they fit the model
PROBE = "probe"


@dataclass(frozen=True)
class TrialSetting:
    """One way to train: methods, and the factor of their default rates; None for a classifier in closed form, which has none.

    ``number`` is its place in the list, which decides where nothing else does; ``group`` names the methods, so that settings of
    one group differ in their rates alone.
    """

    name: str
    methods: tuple[Method, ...]
    factor: float | None
    number: int
    group: str = ""

    @property
    def closed(self) -> bool:
        return self.factor is None

    @property
    def text(self) -> str:
        """Returns the methods with those options that aren't their defaults: ``norm + lora(rank=16)``."""
        return " + ".join(method_text(method) for method in self.methods)

    @property
    def lr(self) -> str | None:
        """Returns ``lr=`` of `petl.fit`, such as "x3"."""
        return None if self.factor is None else f"x{self.factor:.4g}"


def settings_for(model: nn.Module, methods: Any, factors: Sequence[float], outputs: int) -> list[TrialSetting]:
    """Returns all settings: each method with each factor, and the probe in closed form as the last one.

    Every method is put onto a copy of the model first, so that one that can't be there is refused before any training.

    Raises:
        MethodError, SiteError: a method that isn't known, or has no place in this model; two of one name.
    """
    named = _named(model, methods)
    fitting = {
        name: chosen for name, chosen in named.items() if _fits(model, chosen, outputs, asked=methods is not None)
    }
    found: list[TrialSetting] = []
    for name, chosen in fitting.items():
        for factor in (None,) if is_closed(chosen) else factors:
            own = name if factor is None else f"{name} x{factor:.2g}"
            found.append(TrialSetting(own, tuple(chosen), factor, len(found), name))
    if not any(setting.closed and setting.methods == (Probe(),) for setting in found):
        name = PROBE if all(setting.name != PROBE for setting in found) else "probe in closed form"
        found.append(TrialSetting(name, (Probe(),), None, len(found), name))
    return found


def middle_ones(settings: Sequence[TrialSetting]) -> list[str]:
    """Returns the names of those with the rates nearest to the default ones, one for each method that trains by gradient."""
    near: dict[str, TrialSetting] = {}
    for one in settings:
        if one.factor is not None and (
            one.group not in near or abs(math.log(one.factor)) < abs(math.log(near[one.group].factor or 1))
        ):
            near[one.group] = one
    return [one.name for one in near.values()]


def _named(model: nn.Module, methods: Any) -> dict[str, list[Method]]:
    if methods is None:
        return {name: methods_for(model, name, {}) for name in SHORTLIST}
    if isinstance(methods, Mapping):
        if not methods or not all(isinstance(name, str) and name for name in methods):
            raise MethodError(
                f"methods={methods!r:.100}; expected names with what petl.wrap takes: {{'small': 'norm'}}"
            )
        return {name: methods_for(model, asked, {}) for name, asked in methods.items()}
    each = list(methods) if isinstance(methods, (list, tuple)) else [methods]
    if not each:
        raise MethodError("methods is an empty list; name at least one, such as 'lora', or leave it out")
    found = [(_name(asked, methods_for(model, asked, {})), methods_for(model, asked, {})) for asked in each]
    names = [name for name, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise MethodError(f"methods names {listing(twice)} twice; give them names: methods={{'a': ..., 'b': ...}}")
    return dict(found)


def _name(asked: Any, methods: Sequence[Method]) -> str:
    return asked if isinstance(asked, str) else "+".join(method_text(method) for method in methods)


def is_closed(methods: Sequence[Method]) -> bool:
    """Returns whether these methods are a classifier in closed form alone, which has no learning rate."""
    return len(methods) == 1 and isinstance(methods[0], Probe) and methods[0].solver != "sgd"


def _fits(model: nn.Module, methods: Sequence[Method], outputs: int, *, asked: bool) -> bool:
    """Returns whether ``wrap`` takes these methods; where the user asked for them, its error is the user's."""
    try:
        wrap(copy.deepcopy(model), list(methods), num_classes=outputs)
    except SiteError:
        if asked:
            raise
        return False
    return True
