"""The config of an adapter that petl writes, as peft's own classes make it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import nn

from petl.errors import StateError, listing
from petl.exchange.peft_names import exact_key
from petl.exchange.peft_parts import KEEP_THE_DELTA, PeftParts
from petl.exchange.peft_tuners import Tuner
from petl.methods.lora import LoRA
from petl.sites.names import exact_pattern
from petl.wrapping.record import Record

NO_LAYER = "dummy-target-modules"  # peft's word for an adapter of whole modules alone
RECORDED_ELSEWHERE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


def lora_config(record: Record, parts: PeftParts) -> dict[str, Any]:
    """Returns the config of peft's LoRA for these parts: exact names, and the ranks and scales that differ by layer."""
    from peft import LoraConfig

    lora = [method for method in record.methods if isinstance(method, LoRA)]
    root = bool(lora) and all(method.rslora for method in lora)
    alphas = {name: _alpha(f.scale, f.rank, root) for name, f in parts.adapted.items()}
    ranks = {name: factors.rank for name, factors in parts.adapted.items()}
    rank, alpha = _commonest(ranks, 8), _commonest(alphas, 8)
    return plain_values(
        LoraConfig(
            r=rank,
            lora_alpha=alpha,
            use_rslora=root,
            use_dora=any(factors.magnitude is not None for factors in parts.adapted.values()),
            rank_pattern={exact_key(name): value for name, value in ranks.items() if value != rank},
            alpha_pattern={exact_key(name): value for name, value in alphas.items() if value != alpha},
            target_modules=exact_pattern(parts.adapted) or NO_LAYER,
            modules_to_save=parts.entries or None,
            bias="all" if parts.biases else "none",
        )
    )


def tuner_config(base: nn.Module, tuner: Tuner, parts: PeftParts) -> dict[str, Any]:
    """Returns the config of one of peft's own tuners, with petl's layers by their exact names."""
    from peft import get_peft_config

    config: Any = get_peft_config({key: value for key, value in tuner.values.items() if key not in RECORDED_ELSEWHERE})
    config.target_modules = exact_pattern(tuner.names)
    if parts.whole:
        if not hasattr(config, "modules_to_save"):
            raise StateError(
                f"peft's {tuner.kind} takes no modules_to_save, which {listing(parts.whole)} needs; {KEEP_THE_DELTA}"
            )
        config.modules_to_save = parts.entries
    if parts.biases:
        if not hasattr(config, "bias"):
            raise StateError(
                f"peft's {tuner.kind} trains no biases beside it, and those of {listing(parts.biases)} train here; nothing was "
                f"written: {KEEP_THE_DELTA}"
            )
        config.bias = "all"
    return plain_values(config)


def plain_values(config: Any) -> dict[str, Any]:
    """Returns a config of peft's as JSON values, sets in order, as its own files have them."""
    values: dict[str, Any] = config.to_dict()
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return getattr(value, "value", value)


def _alpha(scale: float, rank: int, root: bool) -> float:
    """Returns ``lora_alpha`` such that peft's scale is ``scale``, a whole number where one gives it exactly."""
    divisor = math.sqrt(rank) if root else rank
    exact = scale * divisor
    return round(exact) if round(exact) / divisor == scale else exact


def _commonest(values: Mapping[str, Any], default: Any) -> Any:
    return Counter(values.values()).most_common(1)[0][0] if values else default
