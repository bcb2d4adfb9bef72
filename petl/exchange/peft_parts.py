"""Sorts what a model has trained into what peft can say: low-rank layers, modules kept whole, biases; and what it can't."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor, nn

from petl.errors import StateError, listing
from petl.exchange.peft_layers import (
    PeftFactors,
    effective_state,
    effective_value,
    factors_of,
    low_rank_graft,
    same_tensors,
    stuck_grafts,
    why_whole,
)
from petl.exchange.peft_names import module_names, settled_entries
from petl.graft.classes import base_class
from petl.graft.kinds import WeightGraft, grafts
from petl.sites.names import joined, topmost, within
from petl.sites.survey import Survey
from petl.wrapping.own_tensors import own_tensor

KEEP_THE_DELTA = (
    "keep the delta itself (petl.save), which petl.load and petl.Tasks take, or export the whole model: "
    "petl.export(model, 'model.onnx')"
)


@dataclass
class PeftParts:
    """What a model has trained, in peft's terms.

    ``adapted`` maps layers to the factors of their change; ``whole`` maps modules to the reason why they are kept whole (``""``:
    all of them trains anyway), of which ``entries`` stand in ``modules_to_save``; ``biases`` are layers of which the bias alone
    trains.
    """

    adapted: dict[str, PeftFactors] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    entries: list[str] = field(default_factory=list)
    biases: list[str] = field(default_factory=list)


class _Sorting:
    """One model on its way into peft's terms."""

    def __init__(self, model: nn.Module, base: nn.Module, survey: Survey, owned: Iterable[str]):
        self.model, self.base, self.survey, self.owned = model, base, survey, {*owned}
        self.names = module_names(base)
        self.layers = dict(base.named_modules(remove_duplicate=False))
        self.own = dict(model.named_modules(remove_duplicate=False))
        places = Counter(map(id, self.layers.values()))  # stable: the model keeps the modules alive
        self.shared = {name for name, layer in self.layers.items() if places[id(layer)] > 1}
        self.parts = PeftParts()
        self.dora = any(getattr(low_rank_graft(module), "magnitude", None) is not None for module in model.modules())

    def sort(self) -> PeftParts:
        for name, module in self.own.items():
            if name in self.layers:
                self._sort_module(name, base_layer(module))
        self._settle()
        return self.parts

    def _sort_module(self, name: str, module: nn.Module) -> None:
        """Puts one module, without its children, among the adapted ones, the whole ones, or the biases."""
        trained = self._trained(name, module)
        graft = low_rank_graft(module)
        if graft is not None and not trained - {"bias"}:
            reason = why_whole(self.survey, name, self.layers[name], name in self.shared)
            factors = None if reason else factors_of(module, graft, dora=self.dora)
            if factors is not None:
                self.parts.adapted[name] = factors
                self.parts.biases += [name] if trained else []
                return
            self.parts.whole[name] = reason or "a row of zeros, which has no direction for DoRA"
        elif any(isinstance(child, WeightGraft) for _, child in grafts(module)):
            self.parts.whole[name] = "not a single low-rank change of its weight"
        elif trained == {"bias"} and name not in self.shared:
            self.parts.biases.append(name)
        elif trained:
            self.parts.whole[name] = ""

    def _trained(self, name: str, module: nn.Module) -> set[str]:
        """Returns the module's own tensors that train in place or differ from the base's."""
        plain = self.layers[name]
        buffers = {leaf for leaf in plain._buffers if leaf not in plain._non_persistent_buffers_set}
        leaves = [leaf for leaf in (*plain._parameters, *buffers) if own_tensor(plain, leaf) is not None]
        changed = {child.param for _, child in grafts(module) if isinstance(child, WeightGraft)}
        now = {leaf: own_tensor(module, leaf) if leaf in changed else effective_value(module, leaf) for leaf in leaves}
        return {
            leaf
            for leaf in leaves
            if joined(name, leaf) in self.owned or not same_tensors(own_tensor(plain, leaf), now[leaf])
        }

    def _settle(self) -> None:
        """Lets the whole modules be those that peft really wraps for these names."""
        parts = self.parts
        self._refuse_root()
        tops = topmost(name for name in self.names if name in parts.whole)
        parts.entries, reached = settled_entries(self.names, tops, parts.adapted)
        held = [name for name in reached if self.layers[name].state_dict()]
        nested = [name for name in held if within(name.rpartition(".")[0], held)]
        if nested:
            raise StateError(
                f"peft's modules_to_save takes every module whose name ends like an entry, and for {listing(parts.entries)} that "
                f"puts {listing(nested)} inside another one, which peft can't do; nothing was written: {KEEP_THE_DELTA}"
            )
        reasons = {name: parts.whole.get(name, "its name ends like that of a module that trains") for name in held}
        for name in [name for name in parts.whole if name not in reasons]:  # inside one of them
            top = next(top for top in held if within(name, [top]))
            reasons[top] = reasons[top] or parts.whole[name]
        parts.whole = reasons
        parts.adapted = {name: value for name, value in parts.adapted.items() if not within(name, held)}
        parts.biases = [name for name in parts.biases if not within(name, held)]

    def _refuse_root(self) -> None:
        if "" in self.parts.whole:
            own = sorted(self._trained("", self.model))
            raise StateError(
                f"peft can't say {listing(own)}: parameters of the {type(self.base).__name__} itself, and modules_to_save names "
                f"modules inside it; nothing was written: {KEEP_THE_DELTA}"
            )


def sorted_parts(model: nn.Module, base: nn.Module, survey: Survey, owned: Iterable[str]) -> PeftParts:
    """Returns what the wrapped model has trained, in peft's terms; ``base`` is its plain base.

    Args:
        owned: the keys of the tensors that train, whether they have moved or not.

    Raises:
        StateError: something that peft can't say; the error names it.
    """
    if stuck := stuck_grafts(model):
        places = [name or f"the {base_class(model).__name__} itself" for name in stuck]
        reasons = sorted({graft.why_stuck for graft in stuck.values()})
        raise StateError(
            f"peft can't say what is on {listing(places)} ({'; '.join(reasons)}: no tuner of peft has it); nothing was written: "
            f"{KEEP_THE_DELTA}"
        )
    return _Sorting(model, base, survey, owned).sort()


def base_layer(module: nn.Module) -> nn.Module:
    """Returns the base's own layer inside a tuner layer of peft's, any other module itself."""
    inner = getattr(module, "get_base_layer", None)
    return cast(nn.Module, inner()) if callable(inner) else module


def parts_state(model: nn.Module, base: nn.Module, parts: PeftParts) -> dict[str, Tensor]:
    """Returns the tensors of the parts under the names that peft's files have, without peft's prefix."""
    state: dict[str, Tensor] = {}
    for name, factors in parts.adapted.items():
        state |= {f"{name}.{key}": value for key, value in factors.state().items()}
    for name in parts.whole:
        tensors = effective_state(model.get_submodule(name), base.get_submodule(name))
        state |= {f"{name}.{key}": value for key, value in tensors.items()}
    for name in _bias_layers(base, parts):
        layer = model.get_submodule(name)
        inside = name in parts.adapted or base_layer(layer) is not layer
        leaf = "base_layer.bias" if inside else "bias"
        state[f"{name}.{leaf}"] = cast(Tensor, base_layer(layer)._parameters["bias"]).detach()
    return state


def _bias_layers(base: nn.Module, parts: PeftParts) -> list[str]:
    """Returns the layers whose bias the file holds: where one trains all, since ``bias="all"`` says that all are there."""
    biased = [name for name, module in base.named_modules() if module._parameters.get("bias") is not None]
    return [name for name in biased if not within(name, parts.whole)] if parts.biases else []
