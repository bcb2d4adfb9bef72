"""The class that a task's model gets: it refuses what would change the backbone under the other tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from petl.errors import StateError
from petl.graft.classes import base_class
from petl.graft.graft import add_fast_paths
from petl.graft.kinds import FastPath, grafts
from petl.wrapping.lookup import SHARED


class Sharing:
    """Marks a model that shares a backbone; a deep copy or a pickle of the model has tensors of its own, and says so."""

    def __init__(self, task: str, shares: bool = True) -> None:
        self.task, self.shares, self.lock = task, shares, threading.RLock()

    def __deepcopy__(self, memo: Any) -> Sharing:
        return Sharing(self.task, False)

    def __reduce__(self) -> Any:
        return Sharing, (self.task, False)


def guard_task(model: nn.Module, task: str) -> None:
    """Makes a model with a delta on it the model of a task, which shares its backbone."""
    vars(model)[SHARED] = Sharing(task)
    one_at_a_time = any(
        getattr(graft, "reads_beyond", False) for module in model.modules() for _, graft in grafts(module)
    )
    add_fast_paths(model, TaskModel, *([OneAtATime] if one_at_a_time else []))


class TaskModel(FastPath):
    """A task's model: for evaluation, and where its backbone is."""

    around_grafts = True

    def train(self, mode: bool = True) -> Any:
        if mode and _shares(self):
            _refuse(self, "train()", "its backbone is evaluated by other tasks too")
        return super().train(mode)  # type: ignore[misc]  # nn.Module.train comes later in the MRO

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        if _shares(self) and (change := _change_by(fn, cast(nn.Module, self))):
            _refuse(
                self, change, "the other tasks' tensors would stay behind. the .to() of its petl.Tasks moves all tasks"
            )
        return super()._apply(fn, *args, **kwargs)  # type: ignore[misc]  # nn.Module's method comes later in the MRO

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        if _shares(self):
            _refuse(self, "load_state_dict()", "it would write to the backbone of other tasks")
        return super().load_state_dict(*args, **kwargs)  # type: ignore[misc]  # nn.Module's method comes later in the MRO


class OneAtATime(FastPath):
    """A model whose forward leaves values between its modules: one thread after the other runs it."""

    around_grafts = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with vars(self)[SHARED].lock:
            return super().forward(*args, **kwargs)  # type: ignore[misc]  # the class's own forward comes later in the MRO


def _shares(model: Any) -> bool:
    sharing = vars(model).get(SHARED)
    return sharing is not None and sharing.shares


def _refuse(model: Any, what: str, why: str) -> NoReturn:
    kind, task = base_class(model).__name__, vars(model)[SHARED].task
    raise StateError(
        f"{what} on the {kind} of task {task!r} in petl.Tasks: {why}; petl.load(path, model) puts the delta onto a backbone of "
        f"its own"
    )


def _change_by(fn: Callable[[Tensor], Tensor], model: nn.Module) -> str:
    """Returns what ``fn`` would change of the model's tensors, such as ``to(torch.float16)``; "" where nothing."""
    kinds = {(tensor.dtype, tensor.device) for tensor in (*model.parameters(), *model.buffers())}
    for dtype, device in sorted(kinds, key=str):
        sample = torch.empty(2, 2, 2, 2, dtype=dtype, device=device)
        try:
            after = fn(sample)
        except Exception:  # a function of the user's that can't take such a tensor
            return "a function on all tensors"
        if (after.dtype, after.device) != (dtype, device):
            return f"to({after.dtype if after.dtype != dtype else str(after.device)!r})".replace("'torch.", "torch.")
        if after.stride() != sample.stride():
            return "to(memory_format=...)"
    return ""
