"""A base in low precision (``base_dtype=``): frozen weights are stored in half the bytes, and upcast wherever they are used.

Every use upcasts the stored values again, which is exact, and no layer keeps the result. The kernels keep the stored weight
and upcast it a second time in the backward; what other code saves for its backward is recomputed (``recompute``).
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
from petl.memory.recompute import active_tape
from petl.sites.layers import is_layer, weight_names
from petl.sites.names import joined, within

BaseDtype = torch.dtype | Literal["bfloat16", "float16"]
LOW_PRECISION = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Upcast(WeightGraft):
    """Returns a stored weight in its original dtype. It is the first graft on the weight: other grafts add to the upcast one."""

    def __init__(self, param: str, dtype: torch.dtype):
        super().__init__()
        self.param, self.dtype = param, dtype

    def forward(self, weight: Tensor, parent: nn.Module) -> Tensor:
        upcast, tape = self._upcast(weight), active_tape()
        if tape is not None and upcast is not weight:
            tape.record(upcast, self._upcast, weight)
        return upcast

    def _upcast(self, weight: Tensor) -> Tensor:
        return weight.to(self.dtype)


class ParameterRef(NamedTuple):
    """A parameter: its state-dict key, the module that owns it, and its name in that module."""

    key: str
    module: nn.Module
    leaf: str

    @property
    def own(self) -> nn.Parameter:
        return cast(nn.Parameter, self.module._parameters[self.leaf])


def low_precision_dtype(value: Any) -> torch.dtype | None:
    """Returns the dtype that the user's ``base_dtype`` means, None for the base as it is; MethodError for other values."""
    dtype = LOW_PRECISION.get(value) if isinstance(value, str) else value
    if value is None or dtype in LOW_PRECISION.values():
        return dtype
    raise MethodError(f"base_dtype={value!r}; expected torch.bfloat16 or torch.float16, their names, or None")


def split_by_dtype(
    model: nn.Module, dtype: torch.dtype, trains: Collection[int], heads: Collection[str]
) -> tuple[list[ParameterRef], dict[str, str]]:
    """Returns the weights of layers that can be stored in ``dtype``, and by key the reasons why others keep their own.

    ``trains`` are the ids of tensors that train in place, ``heads`` the names of the classifier's modules.
    """
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    low_precision, full_precision_reasons = [], {}
    for ref in _layer_weights(model):
        own = ref.own
        reasons = {
            "it trains": id(own) in trains,
            "the classifier": within(ref.key.rpartition(".")[0], heads),
            f"{_dtype_name(own.dtype)} already": own.element_size() <= dtype.itemsize or not own.is_floating_point(),
            "several modules share it": uses[id(own)] > 1,
        }
        why = next((reason for reason, holds in reasons.items() if holds), "")
        why = why or ("" if _stays_finite(own, dtype) else f"its numbers don't fit {_dtype_name(dtype)}")
        if why:
            full_precision_reasons[ref.key] = why
        else:
            low_precision.append(ref)
    return low_precision, full_precision_reasons


def store_low(ref: ParameterRef, dtype: torch.dtype) -> None:
    """Stores the parameter in low precision, in place, and grows its ``Upcast``."""
    own = ref.own
    stored = own.detach().to(dtype)
    grow(ref.module, f"wide_{ref.leaf}", Upcast(ref.leaf, own.dtype))
    own.data = stored


def restore_dtype(model: nn.Module) -> None:
    """Writes the upcast values into the parameters: the rounded base, in its original dtype."""
    for module in model.modules():
        for _, graft in grafts(module):
            if isinstance(graft, Upcast):
                own = cast(Tensor, module._parameters[graft.param])
                own.data = own.detach().to(graft.dtype)


def is_stored_low(module: nn.Module) -> bool:
    """Returns whether the module's weight is stored in low precision."""
    return any(isinstance(graft, Upcast) and graft.param == "weight" for _, graft in grafts(module))


def _layer_weights(model: nn.Module) -> Iterator[ParameterRef]:
    """Yields every matrix and kernel of a layer that is the layer's own parameter."""
    for name, module in model.named_modules():
        for leaf in weight_names(module) if is_layer(module) else ():
            if module._parameters.get(leaf) is not None:
                yield ParameterRef(joined(name, leaf), module, leaf)


def _stays_finite(weight: Tensor, dtype: torch.dtype) -> bool:
    """Returns whether every finite number of the weight is finite in ``dtype`` too."""
    return bool((weight.detach().to(dtype).isfinite() == weight.detach().isfinite()).all())


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
