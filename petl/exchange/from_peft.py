"""from_peft: puts an adapter that peft has trained onto a model, as a change of petl's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from petl.delta.file import Paths, as_path, shapes_of
from petl.delta.tensors import delta_tensors, fill_model, refuse_mismatch
from petl.errors import DeltaError, PetlError, listing
from petl.exchange.adapter_keys import AdapterTensors, sorted_tensors
from petl.exchange.adapter_layers import (
    bridge_method,
    bridge_tensors,
    drop_unread,
    native_methods,
    native_tensors,
    refuse_ranks,
)
from petl.exchange.adapter_reading import AdapterConfig, read_config, refuse_other_layers
from petl.exchange.kept_texts import note_texts
from petl.exchange.peft_folder import read_adapter
from petl.format.method_values import oversized
from petl.memory.modes import Memory
from petl.methods.bias import Bias
from petl.methods.method import Method
from petl.sites.layers import bias_names
from petl.sites.names import joined, within
from petl.sites.roles import all_sites
from petl.sites.sites import Sites
from petl.sites.survey import Survey
from petl.wrapping.install import Plan, install
from petl.wrapping.lookup import Model
from petl.wrapping.preconditions import memory_setting, survey_unwrapped
from petl.wrapping.record import Record


@torch.inference_mode(False)
def from_peft(model: Model, folder: Paths, *, fused: bool = True, memory: Memory = "lean") -> Model:
    """Puts an adapter that peft has trained on a timm model onto this model, which then has equal outputs, and saves as a delta.

    LoRA and DoRA become petl's own where that computes the same (else, and for LoHa, LoKr and the others, peft's layers stay, as
    with ``petl.wrap(model, "peft:LoHa")``); ``modules_to_save`` and ``bias`` become tensors that train. The folder isn't trusted:
    nothing that its config names is imported, opened or fetched, and a pickle is not read.

    Args:
        model: the base, not wrapped; changed in place. Where the adapter brings a classifier for another number of classes, the
            model gets a new one of that size.
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``, as peft's ``save_pretrained`` writes them.
        fused, memory: as for ``petl.wrap``, for further training. Of peft's LoRA, petl's own has no dropout.

    Returns:
        The same object, wrapped: it predicts, trains on, saves and merges as any model of petl's.

    Raises:
        DeltaError: the folder holds no such adapter, asks for what petl doesn't do, or doesn't fit the model: tensors that are
            left over or missing are named. The model is unchanged.
        StateError: the model is wrapped already.

    >>> import peft, petl, timm, tempfile
    >>> tuned = peft.get_peft_model(timm.create_model("test_vit"), peft.LoraConfig(target_modules=["qkv"]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tuned.save_pretrained(folder)
    ...     model = petl.from_peft(timm.create_model("test_vit"), folder)
    >>> petl.record(model).methods[0].rank
    8
    """
    training = memory_setting(memory, fused)
    values, tensors, texts = read_adapter(folder)
    path = as_path(folder)
    config = read_config(path, values)
    survey = survey_unwrapped(model)
    found = sorted_tensors(config, model, tensors)
    refuse_other_layers(config, model, found.layers)
    drop_unread(config, survey, found)
    refuse_ranks(config, found.layers)
    reading = _Reading(path, config, survey, found)

    def finish(record: Record) -> None:
        wanted = delta_tensors(model, record)[0]
        state = reading.state([*wanted])
        refuse_mismatch(path, wanted, state)
        fill_model(model, state, as_stored=False)
        note_texts(record, texts, getattr(model, "num_classes", None))

    try:
        install(survey, reading.plans(), memory=training, finish=finish, **reading.options())
    except PetlError as error:
        raise DeltaError(f"{path} doesn't fit this {type(model).__name__}: {error}") from error
    return model


class _Reading:
    """An adapter on its way onto a model: its methods, its classifier, and its tensors by the model's keys."""

    def __init__(self, path: Path, config: AdapterConfig, survey: Survey, found: AdapterTensors):
        self.path, self.config, self.survey, self.found = path, config, survey, found
        native = native_methods(config, survey, found.layers) if config.kind == "LORA" else None
        self.is_native = native is not None or not found.layers
        self.methods: Sequence[Method] = native or ([bridge_method(config, found.layers)] if found.layers else [])
        heads = survey.head or []
        self.head = heads if heads and all(within(name, found.whole) for name in heads) else []
        plain = [name for name in found.biases if bias_names(survey.modules[name]) == ["bias"]]
        used = {site.name for site in all_sites(survey)}
        self.biases = [name for name in plain if name in used and not within(name, self.head)]
        if wrong := oversized([method.to_json() for method in self.methods], shapes_of(self._file_shapes())):
            raise DeltaError(f"{path}: {listing(wrong)} is larger than what the file holds")

    def _file_shapes(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": t for name, tensors in self.found.layers.items() for key, t in tensors.items()}

    def plans(self) -> list[Plan]:
        """Returns the methods with their sites; the biases that train alone are a method too."""
        sites = {site.name: site for site in all_sites(self.survey)}
        unknown = [name for name in self.found.layers if name not in sites]
        if unknown:
            raise DeltaError(
                f"{self.path} adapts {listing(unknown)}, which {type(self.survey.model).__name__} doesn't use"
            )
        plans: list[Plan] = [(method, Sites(sites[n] for n in cast(Any, method).where)) for method in self.methods]
        if self.biases:
            plans.append((Bias(where=tuple(self.biases)), Sites(sites[name] for name in self.biases)))
        return plans

    def options(self) -> dict[str, Any]:
        """Returns the arguments of ``install``: the classifier, its classes, and the keys that no method and no head owns."""
        owned = {joined(name, "bias") for name in self.biases}
        by_hand = [k for k in self.found.own if k not in owned and not within(k.rpartition(".")[0], self.head)]
        return {"head": bool(self.head), "num_classes": self._classes(), "unfrozen_by_hand": by_hand}

    def _classes(self) -> int | None:
        """Returns the number of classes of the file's classifier where the model has another, else None."""
        rows = {
            self.found.own[joined(name, "weight")].shape[0]
            for name in self.head
            if joined(name, "weight") in self.found.own
        }
        current = getattr(self.survey.model, "num_classes", None)
        return rows.pop() if len(rows) == 1 and rows != {current} else None

    def state(self, keys: list[str]) -> dict[str, Tensor]:
        """Returns the file's tensors by the keys of the wrapped model."""
        layers, own = self.found.layers, dict(self.found.own)
        if self.is_native:
            return {**native_tensors(layers), **own}
        inside = {joined(n, "bias"): f"{n}.base_layer.bias" for n in self.biases if n in layers}
        return {**bridge_tensors(keys, layers), **{inside.get(key, key): value for key, value in own.items()}}
