"""Where and how the training runs: accelerate's Accelerator with borrowed state, a model lent to it, a progress bar."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from petl.errors import PetlError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from rich.progress import Progress


PRECISIONS = (None, "no", "bf16", "fp16")
PREPARE_MARKS = ("forward", "_original_forward", "_is_accelerate_prepared")  # what prepare writes onto a model


@contextlib.contextmanager
def private_accelerator(precision: str | None) -> Iterator[Accelerator]:
    """An Accelerator of our own. accelerate shares one state among all in a process: the caller's comes back afterwards.

    Raises:
        PetlError: an unknown precision, or one that this device can't have.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    if precision not in PRECISIONS:
        raise PetlError(f"precision={precision!r}; expected 'no', 'bf16' or 'fp16'")
    shared = AcceleratorState._shared_state, GradientState._shared_state
    before = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        yield _checked(Accelerator(mixed_precision=precision, cpu=_on_cpus()))
    finally:
        for state, then in zip(shared, before, strict=True):
            state.clear()
            state.update(then)


def _on_cpus() -> bool:
    """Ranks on a machine without an accelerator: accelerate has to be told, or each rank would train on its own."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def _checked(accelerator: Accelerator) -> Accelerator:
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise PetlError("precision='fp16' needs a GPU, and this runs on the CPU; use 'bf16' or 'no'")
    return accelerator


@contextlib.contextmanager
def restored_afterwards(model: nn.Module) -> Iterator[None]:
    """accelerate may write a forward and marks onto modules inside; afterwards they are what they were before."""
    own = [
        (vars(module), {key: vars(module)[key] for key in PREPARE_MARKS if key in vars(module)})
        for module in model.modules()
    ]
    for attributes, before in own:
        if "_is_accelerate_prepared" in before:  # by the caller's Accelerator; ours would take that for its own work
            _drop_marks(attributes)
    try:
        yield
    finally:
        for attributes, before in own:
            _drop_marks(attributes)
            attributes.update(before)


def _drop_marks(attributes: dict[str, object]) -> None:
    for key in PREPARE_MARKS:
        attributes.pop(key, None)


def progress_bar(accelerator: Accelerator, show: bool) -> Progress:
    """A progress bar on stderr: silent on other ranks, and where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    silent = not (show and accelerator.is_main_process and sys.stderr.isatty())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), disable=silent)
