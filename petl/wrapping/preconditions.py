"""Refuses settings, methods and models that wrap can't take, before a model is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from petl.errors import DeltaError, MethodError, StateError, listing
from petl.format.method_values import oversized, refuse_unwritable
from petl.graft.sharded import is_sharded_model
from petl.memory.modes import MEMORY_MODES
from petl.methods.foreign import ForeignMethod
from petl.methods.method import Method
from petl.sites.survey import Survey, survey_model
from petl.wrapping.head import HeadOption
from petl.wrapping.lookup import bare, wrapped_inside


def refuse_unrecordable(methods: Sequence[Method]) -> None:
    """Raises a MethodError where a delta's header couldn't hold a method's values."""
    values = [method.to_json() for method in methods]
    try:
        refuse_unwritable(values, "the values of methods")
    except DeltaError as error:
        raise MethodError(str(error)) from None
    if wrong := oversized(values):
        raise MethodError(f"{listing(wrong)}: out of all proportion, and in no delta")


def memory_setting(memory: str, fused: bool) -> str | None:
    """Returns how training steps save memory, None where the plain layers run; raises a MethodError for unknown settings."""
    if memory not in MEMORY_MODES:
        raise MethodError(f"memory={memory!r}; expected one of {', '.join(MEMORY_MODES)}")
    return memory if fused else None


def refuse_low_precision(dtype: torch.dtype | None, methods: Sequence[Method]) -> None:
    """Raises a MethodError where a method can't work on a base in low precision."""
    readers = [method.name for method in methods if isinstance(method, ForeignMethod)]
    if dtype is not None and readers:
        raise MethodError(
            f"base_dtype={dtype} with {listing(readers)}, which reads and writes the base's own tensors; use petl's own methods, "
            f"such as 'lora', or leave out base_dtype"
        )


def survey_unwrapped(model: nn.Module, head: HeadOption = True, size: Any = None) -> Survey:
    """Surveys a model that is not wrapped yet; raises a StateError for a model that can't be wrapped.

    ``head`` may name the classifier; ``size`` is the size of images, where the model was built for another than the usual one.
    """
    if not isinstance(model, nn.Module):
        raise StateError(f"got {type(model).__name__}; petl takes a model (nn.Module), such as timm.create_model gives")
    _refuse_unfit(model)
    if bare(model) is not model:
        raise StateError(f"got the model inside {type(model).__name__}; wrap it first, then compile or distribute it")
    if inside := wrapped_inside(model):
        wrapped_part = "this model" if "" in inside else f"{listing(inside)} inside this {type(model).__name__}"
        raise StateError(
            f"{wrapped_part} is wrapped already; petl.unwrap(model) takes that off, or name all methods in one wrap"
        )
    if is_sharded_model(model):
        raise StateError(
            f"FSDP has sharded this {type(model).__name__} already, and what petl adds would be outside of the shards; "
            f"petl.wrap or petl.load first, then shard"
        )
    survey = survey_model(model, size)
    if not isinstance(head, bool):
        survey.head = [head] if isinstance(head, str) else list(head)
    return survey


def _refuse_unfit(model: nn.Module) -> None:
    """Raises a StateError for models whose code or tensors can't be changed: scripted, lazy, or made in inference mode."""
    scripted = [name or "it" for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        raise StateError(
            f"{listing(scripted)} of this {type(model).__name__} is scripted or traced, so its layers can't be changed; "
            f"wrap the model as Python built it, and script petl.merge(model) afterwards"
        )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise StateError(f"{listing(lazy)} has no shape yet (a lazy layer); run one batch first: model(batch)")
    inference = [name for name, tensor in tensors if tensor.is_inference()]
    if inference:
        raise StateError(
            f"{listing(inference)} was made under torch.inference_mode, so no gradient can go through it; build the model "
            f"outside, or outside of it take model = copy.deepcopy(model)"
        )
