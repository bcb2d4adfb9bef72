"""Updates that are taken to learn something (a rate, the seconds they take) and undone to the bit afterwards."""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petl.data.pairs import grouped
from petl.training.loop import start_epoch, valid_batches
from petl.training.run import Run
from petl.training.trained_state import cloned, copy_into


@contextlib.contextmanager
def undone(run: Run) -> Iterator[None]:
    """Lets a run train inside, without schedule and averages, and gives everything its value from before at the end.

    Given back are what trains, buffers, optimizer, scaler, random states (also those of a loader's own generators), and what
    accelerate knows of loaders that were left in the middle. Only a loader that counts by itself what it has given can notice.
    """
    accelerator, optimizer = run.accelerator, run.optimizer
    values, buffers = cloned(run.trained), [(b, b.detach().clone()) for b in run.model.buffers()]
    state, scaler = copy.deepcopy(optimizer.state_dict()), accelerator.scaler.state_dict() if accelerator.scaler else {}
    schedule, ema, updates, gradients = run.scheduler, run.ema, run.updates, accelerator.gradient_state
    loaders = [*gradients.dataloader_references]
    restore = _random_states(run.train)
    modes = [(module, module.training) for module in run.model.modules()]
    run.scheduler = run.ema = None
    try:
        yield
    finally:
        run.scheduler, run.ema, run.updates = schedule, ema, updates
        optimizer.zero_grad()
        copy_into(run.trained, values)
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
        optimizer.load_state_dict(state)
        if accelerator.scaler:
            accelerator.scaler.load_state_dict(scaler)
        gradients.dataloader_references = loaders
        for module, mode in modes:
            module.training = mode
        restore()


def windows(run: Run) -> Iterator[tuple[int, Sequence[tuple[Tensor, Tensor, Any]], int]]:
    """Yields (epoch, batches of an update, number of their images), over the training data again and again, from epoch 0 on."""
    for epoch in itertools.count():
        start_epoch(run, epoch)
        given = 0
        with run.without_trunk():
            for window in grouped(valid_batches(run), run.settings.optim.accumulate):
                given += 1
                yield epoch, window, sum(len(targets) for _, targets, _ in window)
        if not given:
            return


def _random_states(loader: Any) -> Callable[[], None]:
    """Returns a function that gives Python, numpy, torch and the loader's generators the states that they have now."""
    python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus: list[Tensor] = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    generators = [(one, one.get_state()) for one in _generators(loader)]

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
        for generator, state in generators:
            generator.set_state(state)

    return restore


def _generators(loader: Any) -> list[torch.Generator]:
    """Returns the generators of a loader, of the loaders in it and of their samplers."""
    found: list[torch.Generator] = []
    parts = [loader]
    for part in parts:  # grows while it is read
        if isinstance(own := getattr(part, "generator", None), torch.Generator):
            found.append(own)
        inner = [getattr(part, name, None) for name in ("source", "base_dataloader", "batch_sampler", "sampler")]
        parts += [one for one in inner if one is not None and not any(one is known for known in parts)]
    return found
