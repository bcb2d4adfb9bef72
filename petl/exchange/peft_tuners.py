"""A tuner of peft's that petl holds by its bridge: its config, its layers and its tensors, under the names of peft's files."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from petl.errors import StateError, listing
from petl.methods.foreign import ForeignMethod
from petl.methods.lora import LoRA
from petl.methods.peft import Peft
from petl.wrapping.record import Record

ADAPTER = "default"  # peft's name for the one adapter that petl puts onto a model


@dataclass(frozen=True)
class Tuner:
    """A tuner of peft's on a model: peft's word for its kind, its config's values, and its layers."""

    kind: str
    values: dict[str, Any]
    names: list[str]


def tuner_of(model: nn.Module, record: Record) -> Tuner | None:
    """Returns the one tuner of peft's on the model, None where there is none.

    Raises:
        StateError: there are two tuners, or one beside petl's own LoRA, which one adapter of peft's can't hold.
    """
    found = [(m, names) for m, names in zip(record.methods, record.sites, strict=True) if isinstance(m, ForeignMethod)]
    if not found:
        return None
    others = [m.name for m in record.methods if isinstance(m, LoRA)]
    if len(found) > 1 or others or not isinstance(found[0][0], Peft):
        kinds = [*(str(getattr(m, "config", {}).get("peft_type", m.name)) for m, _ in found), *others]
        raise StateError(
            f"one adapter of peft's holds one kind of tuner, and this model has {listing(kinds)}; nothing was written: keep the "
            f"delta itself (petl.save), or train one of them"
        )
    method: Any = found[0][0]
    names = found[0][1]
    return Tuner(str(method.config["peft_type"]), dict(method.config), [*names])


def tuner_state(model: nn.Module, tuner: Tuner) -> dict[str, Tensor]:
    """Returns the tuner's own tensors under the names of peft's files, without peft's prefix."""
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about embeddings
        state = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    return {key: value for key, value in state.items() if not key.endswith(("base_layer.weight", "base_layer.bias"))}
