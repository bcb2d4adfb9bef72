"""A private Accelerator for one call: the model and accelerate's shared state are restored afterwards. Its progress bar."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from petl.errors import PetlError, StateError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from rich.progress import Progress


PRECISIONS = (None, "no", "bf16", "fp16")
# what prepare and Module.compile write onto a model
PREPARE_MARKS = ("forward", "_original_forward", "_is_accelerate_prepared", "_compiled_call_impl")


@contextlib.contextmanager
def private_accelerator(precision: str | None, **options: Any) -> Iterator[Accelerator]:
    """Yields an Accelerator for one call; the state that accelerate keeps per process is restored afterwards.

    ``options`` are more of its arguments.

    Raises:
        PetlError: an unknown precision, or one that this device can't have.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    if precision not in PRECISIONS:
        raise PetlError(f"precision={precision!r}; expected 'no', 'bf16' or 'fp16'")
    shared = AcceleratorState._shared_state, GradientState._shared_state
    before = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    own_type = PartialState._shared_state.get("distributed_type")
    _unmark_sharding(PartialState._shared_state)
    try:
        yield _checked(Accelerator(mixed_precision=precision, cpu=_on_cpus(), **options))
    finally:
        for state, values in zip(shared, before, strict=True):
            state.clear()
            state.update(values)
        _unmark_sharding(PartialState._shared_state)
        if own_type is not None:
            PartialState._shared_state["distributed_type"] = own_type


def _unmark_sharding(process: dict[str, Any]) -> None:
    """Writes the plain kind of distribution over FSDP's mark: a new AcceleratorState that finds the mark looks for no plugin."""
    from accelerate.utils import DistributedType

    if process.get("distributed_type") == DistributedType.FSDP:
        device = process["device"].type.upper()
        process["distributed_type"] = DistributedType(f"MULTI_{'GPU' if device == 'CUDA' else device}")


def _on_cpus() -> bool:
    """Returns whether several ranks share a machine without a GPU: accelerate, if not told, would let each train alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def _checked(accelerator: Accelerator) -> Accelerator:
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise PetlError("precision='fp16' needs a GPU, and this runs on the CPU; use 'bf16' or 'no'")
    prepare_for_sharding(accelerator)
    return accelerator


@contextlib.contextmanager
def restored_afterwards(model: nn.Module) -> Iterator[None]:
    """Lets accelerate write a forward and marks onto the modules inside the block, and restores them afterwards."""
    attributes_before = [
        (vars(module), {key: vars(module)[key] for key in PREPARE_MARKS if key in vars(module)})
        for module in model.modules()
    ]
    for attributes, before in attributes_before:
        if (
            "_is_accelerate_prepared" in before
        ):  # by the caller's Accelerator; the private one would not prepare it again
            _drop_marks(attributes)
    try:
        yield
    finally:
        for attributes, before in attributes_before:
            _drop_marks(attributes)
            attributes.update(before)


def _drop_marks(attributes: dict[str, object]) -> None:
    for key in PREPARE_MARKS:
        attributes.pop(key, None)


def progress_bar(accelerator: Accelerator, show: bool) -> Progress:
    """Returns a progress bar on stderr, which is silent on other ranks and where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    silent = not (show and accelerator.is_main_process and sys.stderr.isatty())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    note, period = TextColumn("{task.fields[note]}"), 600.0  # seconds: long enough that validations count in the speed
    return Progress(*columns, note, console=Console(stderr=True), disable=silent, speed_estimate_period=period)


def prepare_for_sharding(accelerator: Any) -> None:
    """Lets each rank shard the model that it has whole, whatever ``accelerate launch`` says of loading it on one rank alone.

    Raises:
        StateError: the processes share the model in a way in which no delta could be saved.
    """
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    old = kind == "FSDP" and not accelerator.is_fsdp2
    if old or kind in ("DEEPSPEED", "MEGATRON_LM"):
        raise StateError(
            f"fit can't train under {'FSDP1' if old else kind}; shard with FSDP2: accelerate launch --use_fsdp --fsdp_version 2"
        )
    if kind == "FSDP":
        accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = False
