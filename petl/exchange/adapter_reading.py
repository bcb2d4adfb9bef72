"""Judges the config of a peft adapter from a file, and compares the layers that it names with those that the tensors are of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from petl.errors import DeltaError, MethodError, listing
from petl.exchange.peft_config import NO_LAYER, RECORDED_ELSEWHERE
from petl.methods.peft import TRANSIENT
from petl.methods.peft_fields import checked_config
from petl.sites.names import exact_pattern

# starts from values that depend on the base: the adapter's tensors go onto a base that peft has changed
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
_NAME = re.compile(r"[\w.-]{1,200}")
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class AdapterConfig:
    """The config of an adapter: ``values`` are what petl passes to peft, the rest of it is petl's to do."""

    path: Path
    kind: str
    values: dict[str, Any]
    bias: str
    saved: list[str]

    def rank(self, name: str) -> int:
        """Returns the rank of the layer of this name."""
        found = self._by_layer("rank_pattern", name, self.values.get("r"))
        return 8 if found is None else int(found)

    def alpha(self, name: str) -> float:
        """Returns ``lora_alpha`` (of LoHa and LoKr, ``alpha``) of the layer of this name."""
        key = "lora_alpha" if "lora_alpha" in self.values else "alpha"
        found = self._by_layer("alpha_pattern", name, self.values.get(key))
        return 8 if found is None else found

    def _by_layer(self, table: str, name: str, usual: Any) -> Any:
        patterns: Mapping[str, Any] = self.values.get(table) or {}
        found = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name))
        return next(found, usual)


def read_config(path: Path, config: Mapping[str, Any]) -> AdapterConfig:
    """Returns the checked config; nothing that it names is imported, opened or fetched.

    Raises:
        DeltaError: it asks for something that petl doesn't do.
    """
    values = {key: value for key, value in config.items() if key not in TRANSIENT}
    bias, saved = values.pop("bias", None) or "none", values.pop("modules_to_save", None) or []
    if not isinstance(bias, str) or not (bias in ("none", "all") or re.fullmatch(r"[a-z_]{1,20}_only", bias)):
        raise DeltaError(f"{path}: its config has bias={bias!r:.60}; expected 'none', 'all' or 'lora_only'")
    if not isinstance(saved, list) or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in saved):
        raise DeltaError(f"{path}: its config has modules_to_save={saved!r:.80}; expected a list of modules' names")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGE_THE_BASE):
        raise DeltaError(
            f"{path}: its LoRA started from a changed base (init_lora_weights={start!r:.40}), onto which its tensors go; write "
            f"it again for the base as it is: peft_model.save_pretrained(folder, path_initial_model_for_weight_conversion=...)"
        )
    if start is not None:
        values["init_lora_weights"] = True  # the values come out of the file
    target = values.get("target_modules")
    names = _alternatives(target)
    try:
        checked = checked_config({**values, **({"target_modules": []} if names is not None else {})})
    except MethodError as error:
        raise DeltaError(f"{path}: its config asks for what petl doesn't take: {error}") from None
    return AdapterConfig(path, str(checked["peft_type"]), {**checked, "target_modules": target}, bias, sorted(saved))


def _alternatives(target: Any) -> list[str] | None:
    """Returns the names of a pattern that is nothing but full names, as petl writes them; None for others."""
    if not isinstance(target, str) or target in (NO_LAYER, ALL_LINEAR):
        return [] if target in (NO_LAYER, ALL_LINEAR) else None
    names = [re.sub(r"\\(.)", r"\1", part) for part in target.split("|")]
    return names if exact_pattern(names) == target and all(_NAME.fullmatch(name) for name in names) else None


def named_layers(config: AdapterConfig, model: nn.Module) -> set[str] | None:
    """Returns the layers that peft adapts by this config; None where it names none and peft would go by the kind of model."""
    from peft import get_peft_config
    from peft.tuners.tuners_utils import check_target_module_exists

    target, modules = config.values["target_modules"], dict(model.named_modules())
    if target == NO_LAYER:
        return set()
    if target is None:
        return None
    fields = {**config.values, "target_modules": target}
    fields.pop("feedforward_modules", None)  # IA3's, which peft compares with a list of targets by its letters
    if isinstance(target, str) and target.lower() == ALL_LINEAR:
        fields["target_modules"] = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    if names := _alternatives(target):
        fields["target_modules"] = names
    try:
        asked: Any = get_peft_config({key: value for key, value in fields.items() if value is not None})
    except Exception as error:  # each config of peft's checks, and fails, in its own way
        raise DeltaError(f"{config.path}: the installed peft refuses its config: {error!r:.300}") from error
    asked.modules_to_save = config.saved or None
    if names:  # full names, which a list would take for endings
        return {name for name in names if name in modules and check_target_module_exists(asked, name)}
    return {name for name in modules if name and check_target_module_exists(asked, name)}


def refuse_other_layers(config: AdapterConfig, model: nn.Module, layers: Mapping[str, Iterable[str]]) -> None:
    """Raises a DeltaError where the layers of the tensors, with peft's names of these, aren't those that the config names."""
    named, found = named_layers(config, model), {*layers}
    if named is None or named == found:
        return
    missing = sorted(named - found)
    extra = [f"{name}.{key}" for name in sorted(found - named) for key in layers[name]]
    raise DeltaError(
        f"{config.path}: its config names layers and its tensors are of others: missing {listing(missing) or 'nothing'}; "
        f"left over {listing(extra) or 'nothing'}; it belongs to another model, or is damaged"
    )


def tuner_values(config: AdapterConfig, layers: Iterable[str]) -> dict[str, Any]:
    """Returns the config's values for petl's bridge, which keeps the layers by their names."""
    values = {key: value for key, value in config.values.items() if key not in RECORDED_ELSEWHERE}
    if "rank_pattern" in values or "alpha_pattern" in values:
        names = [*layers]
        usual_rank, usual_alpha = (
            config.values.get("r", 8),
            config.values.get("lora_alpha", config.values.get("alpha", 8)),
        )
        ranks = {f"^{re.escape(name)}": config.rank(name) for name in names}
        alphas = {f"^{re.escape(name)}": config.alpha(name) for name in names}
        values["rank_pattern"] = {key: value for key, value in ranks.items() if value != usual_rank}
        values["alpha_pattern"] = {key: value for key, value in alphas.items() if value != usual_alpha}
    return {**values, "fan_in_fan_out": False} if values.get("fan_in_fan_out") else values
