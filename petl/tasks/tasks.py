"""Tasks: many deltas on one backbone, switched by name, and batches in which each row has its own task."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from petl.delta.file import Paths
from petl.errors import StateError, listing
from petl.tasks.backbone import SharedBackbone, device_of
from petl.tasks.choice import UNCHOSEN, TaskChoice, TaskSwitch
from petl.tasks.images import ImageStack, by_shape
from petl.tasks.mixed import RowMixer
from petl.tasks.outputs import RowOutputs
from petl.tasks.task import AddedTask, TaskOfRows, find_task, refuse_name, tasks_of_rows
from petl.wrapping.record import Record


class Tasks:
    """Holds many deltas on one backbone and runs any of them: the outputs of each are those of `petl.load`, bit for bit.

    Each task is a model of its own, whose frozen tensors and unchanged modules are the backbone's: a task takes about the memory
    of its delta, switching is a look-up, and no task can change another.

    Threads and asyncio tasks each have their own current task. ``add``, ``remove`` and ``to`` may come while others run
    models; what they change is seen by later calls.

    Args:
        model: the backbone, without a delta. It isn't changed, and may be used beside its tasks; what is written to its tensors
            changes the tasks too, and is refused when a task is used next.

    Raises:
        StateError: the model is wrapped, compiled, sharded or otherwise no plain backbone.

    >>> import petl, timm, torch, copy
    >>> base = timm.create_model("test_vit")
    >>> tasks = petl.Tasks(base)
    >>> tasks.add("pets", petl.wrap(copy.deepcopy(base), "lora", num_classes=3))
    >>> tasks.add("birds", petl.wrap(copy.deepcopy(base), "probe", num_classes=5))
    >>> with tasks.use("pets"):
    ...     tasks(torch.zeros(1, 3, 160, 160)).shape
    torch.Size([1, 3])
    >>> rows = tasks.predict(torch.zeros(2, 3, 160, 160), task=["birds", "pets"])
    >>> [len(row) for row in rows]
    [5, 3]
    """

    def __init__(self, model: nn.Module) -> None:
        self._backbone = SharedBackbone(model)
        self._mixer = RowMixer(self._backbone.trunk)
        self._tasks: dict[str, AddedTask] = {}  # never changed: replaced, so that readers need no lock
        self._changing = threading.RLock()
        self._choice = TaskChoice()

    @property
    def names(self) -> list[str]:
        """The names of the tasks, in the order in which they were added."""
        return [*self._tasks]

    @property
    def current(self) -> str | None:
        """The name of the task that this thread (or asyncio task) has chosen; None where it has chosen none."""
        return self._choice.name or None

    @property
    def model(self) -> nn.Module:
        """The model of the current task; the backbone itself where none is chosen.

        Raises:
            StateError: the current task was removed, the backbone changed, or this thread isn't the one that made `Tasks` and has
                chosen nothing.
        """
        name = self._choice.name
        if name:
            return self[name]
        if name == UNCHOSEN and self._tasks and not self._choice.is_at_home:
            raise StateError(
                "this thread has chosen no task, and each thread has its own: tasks.use(name) here, or tasks.use(None) for the "
                f"backbone; the tasks are {listing(self._tasks)}"
            )
        return self._backbone.model

    def add(self, name: str, delta: Paths | nn.Module, *, replace: bool = False, check_base: bool = True) -> None:
        """Adds a task from a delta file, or from a wrapped model whose delta is copied.

        Args:
            name: of the task, any text.
            delta: the path of a file, or a model that petl has wrapped; the model isn't changed or kept.
            replace: whether a task of this name may be there, whose place the new one takes.
            check_base: as in `petl.load`.

        While it runs it takes the memory of one more backbone.

        Raises:
            StateError: the name is taken or no name, the model isn't wrapped, or the backbone changed.
            DeltaError: the file is damaged or was made on another backbone. All tasks are as they were.
        """
        with self._changing:
            refuse_name(name, () if replace else self._tasks)
            if self._tasks:
                self._backbone.refuse_changed()
            else:
                self._backbone.accept_changes()
            task = AddedTask(name, self._backbone.with_delta(name, delta, check_base), self._backbone)
            self._tasks = {**self._tasks, name: task}

    def remove(self, name: str) -> None:
        """Removes a task and frees its memory; where it is this thread's current task, none is current then.

        Raises:
            StateError: there is no such task.
        """
        with self._changing:
            self._task(name)
            self._tasks = {key: task for key, task in self._tasks.items() if key != name}
        if self.current == name:
            self._choice.set(UNCHOSEN)

    def use(self, name: str | None) -> TaskSwitch:
        """Makes a task the current one of this thread, or with None the backbone; as a context manager, until its end.

        Raises:
            StateError: there is no such task.
        """
        if name is not None:
            self._task(name)
        return self._choice.set(name)

    def record(self, name: str) -> Record:
        """Returns the record of a task's delta: its methods, labels, results and so on (`petl.record`)."""
        return self._task(name).record

    def labels(self, name: str) -> list[str] | None:
        """Returns the labels of a task's outputs; None where its delta has none."""
        return self._task(name).record.labels

    def hold(self, name: str) -> AddedTask:
        """Returns a task as it is now, which `predict` takes in place of its name, also after it was removed or replaced."""
        return self._task(name)

    def predict(self, x: Tensor | Sequence[Tensor], task: TaskOfRows, *, exact: bool = False) -> RowOutputs:
        """Returns the outputs of each image under its own task, in the order of the images; no gradients.

        Where it can, it computes the backbone once for all rows: for tasks that change only the classifier, or single layers
        (LoRA, norms, biases). Others run their own model. ``paths`` of the result says how each row was computed, `explain` why.

        Args:
            x: images as the models take them [N, C, H, W], or a list of images [C, H, W], which may differ in size and
                channels.
            task: the name of each image's task, or one name for all; or what `hold` returned.
            exact: run each task's own model on its rows: bit-equal to ``tasks.use(name)`` and the model on these rows. Else
                outputs may differ by rounding, 1e-5 of the largest output.

        Raises:
            StateError: an unknown task, or not one for each image.
            DataError: no images, or images that a task's model can't take.
        """
        self._backbone.refuse_changed()
        batches = by_shape(x)
        return self._mixer.predict(batches, self._tasks_of(task, batches), exact)

    def explain(self, x: Tensor | Sequence[Tensor], task: TaskOfRows) -> dict[str, str]:
        """Returns in words how `predict` would compute these rows: for each task its path, and why."""
        self._backbone.refuse_changed()
        batches = by_shape(x)
        return self._mixer.explain(batches, self._tasks_of(task, batches))

    def to(self, device: str | torch.device | int) -> Tasks:
        """Moves the backbone and all tasks to a device; all or nothing, and not while other threads run models.

        Raises:
            StateError: anything else than a device, such as a dtype: deltas belong to a backbone of one type.
        """
        with self._changing:
            self._backbone.move(device_of(device), [task.model for task in self._tasks.values()])
            self._mixer = RowMixer(self._backbone.trunk)
            for task in self._tasks.values():
                task.changes.clear()  # of the tensors where they were
        return self

    def eval(self) -> Tasks:
        """Puts the modules that tasks share, and those of all tasks, back into evaluation mode."""
        for modes in (self._backbone.modes, *(task.modes for task in self._tasks.values())):
            modes.eval()
        return self

    def __getitem__(self, name: str) -> nn.Module:
        """Returns the model of a task, for any thread, whatever is current."""
        self._backbone.refuse_changed()
        task = self._task(name)
        task.modes.refuse_training()
        return task.model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model of the current task."""
        return self.model(*args, **kwargs)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        names = listing(self._tasks) or "none"
        return f"Tasks({self._backbone!r}; {len(self)} tasks: {names}; current: {self.current!r})"

    def _task(self, name: str) -> AddedTask:
        return find_task(self._tasks, name)

    def _tasks_of(self, names: Any, batches: Sequence[ImageStack]) -> list[AddedTask]:
        """Returns the task of each image."""
        return tasks_of_rows(self._tasks, names, sum(len(batch.rows) for batch in batches), self._backbone)
