"""The backbones that `petl.start` chooses among, how one is built, and how a later command names it."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from petl import demo
from petl.errors import PetlError
from petl.ranking.candidates import Candidate
from petl.ranking.timm_tags import tag_of
from petl.start.at_hand import backbones_at_hand
from petl.wrapping.lookup import record
from petl.wrapping.named_backbones import DEMO, name_and_file


@dataclass(frozen=True)
class Backbones:
    """Candidates by name: what `petl.rank` takes; None where it chooses by itself."""

    found: dict[str, Any] | None

    @classmethod
    def of(cls, models: Any) -> Backbones:
        """Returns those that were asked for, else those at hand.

        A model is a name of timm's, ``NAME:FILE``, "demo" for the demo's EfficientNet-Lite0, or a bare module.

        Raises:
            PetlError: they are none of these.
        """
        asked = backbones_at_hand() if models is None else models
        if isinstance(asked, (str, nn.Module)):
            asked = [asked]
        if not isinstance(asked, (Mapping, Sequence)) or (models is not None and not asked):
            raise PetlError(
                f"models={models!r:.100}; expected names of timm's, NAME:FILE, modules, or a list or dict of these"
            )
        named = (
            asked
            if isinstance(asked, Mapping)
            else {_name(model, place): model for place, model in enumerate(asked, 1)}
        )
        for name, model in named.items():
            if not isinstance(model, (str, nn.Module)):
                raise PetlError(
                    f"got a {type(model).__name__} as a model; expected a name of timm's, NAME:FILE, or a module"
                )
            if isinstance(model, nn.Module) and record(model) is not None:
                raise PetlError(f"{name} is wrapped already; start takes bare models and wraps the one that it chooses")
        for model in named.values():
            if isinstance(model, str) and model != DEMO and ":" not in (known := name_and_file(model)[0]):
                tag_of(known)  # a name that timm doesn't know is an error here, before anything is computed
        opened = {str(name): demo.lite0() if model == DEMO else model for name, model in named.items()}
        return cls(opened or None)

    def __len__(self) -> int:
        return len(self.found) if self.found is not None else 0

    def build(self, name: str, size: int | None) -> nn.Module:
        """Returns the model of this name: its own copy, or as timm builds it, for images of this size if it is made for one."""
        model = self.found.get(name, name) if self.found is not None else name
        if isinstance(model, nn.Module):
            return copy.deepcopy(model)
        return Candidate(name, model).build(size)

    def option(self, name: str) -> str:
        """Returns the option by which a later command finds the weights: none for those that timm fetches.

        Of a module, nobody but its owner has the weights: they stand there as WEIGHTS.
        """
        model = self.found.get(name, name) if self.found is not None else name
        if name == DEMO:
            return f" --model {DEMO}"
        if isinstance(model, nn.Module):
            return " --model :WEIGHTS"
        return f" --model {shlex.quote(model)}" if isinstance(model, str) and name_and_file(model)[1] else ""


def _name(model: Any, place: int) -> str:
    return model if isinstance(model, str) else f"model {place}"
