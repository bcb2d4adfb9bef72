"""What is refused before anything is done to a model: settings, methods and models that wrap can't take."""

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
    """Raises a MethodError where a method's values couldn't stand in a delta's header."""
    values = [method.to_json() for method in methods]
    try:
        refuse_unwritable(values, "the values of methods")
    except DeltaError as error:
        raise MethodError(str(error)) from None
    if wrong := oversized(values):
        raise MethodError(f"{listing(wrong)}: out of all proportion, and in no delta")


def memory_setting(memory: str, fused: bool) -> str | None:
    """Returns how training steps save memory, None where the plain layers run; a MethodError where there is no such setting."""
    if memory not in MEMORY_MODES:
        raise MethodError(f"memory={memory!r}; expected one of {', '.join(MEMORY_MODES)}")
    return memory if fused else None


def refuse_low_precision(dtype: torch.dtype | None, methods: Sequence[Method]) -> None:
    """Raises a MethodError where a method can't go onto a base in low precision."""
    readers = [method.name for method in methods if isinstance(method, ForeignMethod)]
    if dtype is not None and readers:
        raise MethodError(
            f"base_dtype={dtype} with {listing(readers)}, which reads and writes the base's own tensors; use petl's own methods, "
            f"such as 'lora', or leave out base_dtype"
        )


def survey_unwrapped(model: nn.Module, head: HeadOption = True, size: Any = None) -> Survey:
    """Surveys a model that is not wrapped yet.

    ``head`` may name the classifier; ``size`` is that of the images, where the model was built for others than usual.
    """
    if not isinstance(model, nn.Module):
        raise StateError(f"got {type(model).__name__}; petl takes a model (nn.Module), such as timm.create_model gives")
    _refuse_unfit(model)
    if bare(model) is not model:
        raise StateError(f"got the model inside {type(model).__name__}; wrap it first, then compile or distribute it")
    if inside := wrapped_inside(model):
        what = "this model" if "" in inside else f"{listing(inside)} inside this {type(model).__name__}"
        raise StateError(
            f"{what} is wrapped already; petl.unwrap(model) takes that off, or name all methods in one wrap"
        )
    if is_sharded_model(model):
        raise StateError(
            f"FSDP has sharded this {type(model).__name__} already, and what petl adds would be outside of the shards; "
            f"petl.wrap or petl.load first, then shard"
        )
    model_survey = survey_model(model, size)
    if not isinstance(head, bool):
        model_survey.head = [head] if isinstance(head, str) else list(head)
    return model_survey


def _refuse_unfit(model: nn.Module) -> None:
    """Raises a StateError for models whose code or tensors nobody can change."""
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
