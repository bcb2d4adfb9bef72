"""A base in low precision: frozen matrices and kernels are kept in half the bytes, and widened wherever they are used.

Every use makes the wide values anew and exactly; nobody keeps them. The kernels keep the narrow weight and widen it again
in the backward, and what other code saves for its backward is made again by ``remake``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from petl.errors import MethodError
from petl.graft.graft import grow
from petl.graft.kinds import WeightGraft, grafts
from petl.memory import recompute
from petl.sites.layers import is_layer, weight_names
from petl.sites.names import within

BaseDtype = torch.dtype | Literal["bfloat16", "float16"]
NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Upcast(WeightGraft):
    """A narrow weight in the type that it had: the first graft on it, so that others add to the wide one."""

    def __init__(self, param: str, dtype: torch.dtype):
        super().__init__()
        self.param, self.dtype = param, dtype

    def forward(self, weight: Tensor, parent: nn.Module) -> Tensor:
        wide, kept = self._wide(weight), recompute.now()
        if kept is not None and wide is not weight:
            kept.note(wide, self._wide, weight)
        return wide

    def _wide(self, weight: Tensor) -> Tensor:
        return weight.to(self.dtype)


class Place(NamedTuple):
    """A parameter: its state-dict key, its module, and its name there."""

    key: str
    module: nn.Module
    leaf: str

    @property
    def own(self) -> nn.Parameter:
        return cast(nn.Parameter, self.module._parameters[self.leaf])


def narrow_dtype(asked: Any) -> torch.dtype | None:
    """What the user asked for as ``base_dtype``: a type, its name, or None for the base as it is."""
    found = NARROW.get(asked) if isinstance(asked, str) else asked
    if asked is None or found in NARROW.values():
        return found
    raise MethodError(f"base_dtype={asked!r}; expected torch.bfloat16 or torch.float16, their names, or None")


def sorted_out(
    model: nn.Module, dtype: torch.dtype, trains: Collection[int], heads: Collection[str]
) -> tuple[list[Place], dict[str, str]]:
    """The matrices and kernels that can be narrow, and the keys of the others, with the reason.

    ``trains`` are the ids of tensors that train in place, ``heads`` the names of the classifier's modules.
    """
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    places, wide = [], {}
    for place in _matrices(model):
        own = place.own
        reasons = {
            "it trains": id(own) in trains,
            "the classifier": within(place.key.rpartition(".")[0], heads),
            f"{_name(own.dtype)} already": own.element_size() <= dtype.itemsize or not own.is_floating_point(),
            "several modules share it": uses[id(own)] > 1,
        }
        why = next((reason for reason, holds in reasons.items() if holds), "")
        why = why or ("" if _fits(own, dtype) else f"its numbers don't fit {_name(dtype)}")
        if why:
            wide[place.key] = why
        else:
            places.append(place)
    return places, wide


def lower(place: Place, dtype: torch.dtype) -> None:
    """Make the parameter narrow, in place."""
    own = place.own
    narrow = own.detach().to(dtype)
    grow(place.module, f"wide_{place.leaf}", Upcast(place.leaf, own.dtype))
    own.data = narrow


def widen(model: nn.Module) -> None:
    """Write the wide values into the parameters: the rounded base, in the type that it had."""
    for module in model.modules():
        for _, graft in grafts(module):
            if isinstance(graft, Upcast):
                own = cast(Tensor, module._parameters[graft.param])
                own.data = own.detach().to(graft.dtype)


def is_narrow(module: nn.Module) -> bool:
    """Whether the module's weight is kept in low precision."""
    return any(isinstance(graft, Upcast) and graft.param == "weight" for _, graft in grafts(module))


def _matrices(model: nn.Module) -> Iterator[Place]:
    """Every matrix and kernel of a layer that is a parameter of the layer's own."""
    for name, module in model.named_modules():
        for leaf in weight_names(module) if is_layer(module) else ():
            if module._parameters.get(leaf) is not None:
                yield Place(f"{name}.{leaf}".lstrip("."), module, leaf)


def _fits(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether every finite number stays finite."""
    return bool((weight.detach().to(dtype).isfinite() == weight.detach().isfinite()).all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
