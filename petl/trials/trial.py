"""One run of a comparison: a function that can be sent to another process, and what it returns."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from petl.delta.save import save
from petl.objectives.measured import per_image_of
from petl.training.evaluation import evaluate
from petl.training.fit import fit
from petl.training.known_heads import sharing_head
from petl.trials.parts import Parts
from petl.trials.quiet import divergence_untold
from petl.trials.settings import TrialSetting
from petl.trials.templates import Templates
from petl.wrapping.lookup import trainable
from petl.wrapping.wrap import wrap

DELTA, CHECKPOINT = "delta.safetensors", "checkpoint"
IN_TURN = threading.Lock()  # torch has one random generator per process: runs in threads take turns


@dataclass(frozen=True)
class Materials:
    """What every run takes: the bare model, the images, and settings of `petl.fit` that all have; no run changes these.

    ``templates`` saves the runs of one method what they would all compute; what they find doesn't depend on it.
    """

    model: nn.Module
    parts: Parts
    options: dict[str, Any] = field(default_factory=dict)  # objective, batch_size, workers
    templates: Templates = field(default_factory=Templates, compare=False)


@dataclass(frozen=True)
class TrialRun:
    """A run: one setting with one seed, measured on one fold, trained to ``epochs`` in all of a schedule of ``cycles``.

    Its folder holds its checkpoint, from which a longer run of the same setting, seed and fold goes on, and its delta.
    """

    setting: TrialSetting
    seed: int
    fold: int
    epochs: int
    cycles: tuple[int, ...]
    folder: str
    threads: int

    @property
    def key(self) -> str:
        """Returns what names the run among all of a comparison."""
        length = "" if self.setting.closed else f", {self.epochs} epochs"
        return f"{self.setting.name}, seed {self.seed}{length}"


@dataclass(frozen=True)
class Outcome:
    """What a run found: ``scores`` has one number an image that chooses, of which more is better; ``measure`` says which.

    ``loss`` is the mean of these images. ``seconds`` are those of this run alone, without what it went on from; ``pace`` is those
    of an epoch. ``failed`` is "" or the reason why there is nothing else.
    """

    key: str
    measure: str = ""
    scores: list[float] = field(default_factory=list)
    loss: float = float("nan")
    seconds: float = 0.0
    pace: float = field(default=0.0, compare=False)
    trainable: int = 0
    bytes: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: str = ""


def carried_out(source: Materials | str, trial: TrialRun) -> Outcome:
    """Returns what a run finds. ``source`` is its materials, or the file that they were pickled to.

    An error in it is its outcome, so that the other runs go on; it leaves random generators and threads as they were.
    """
    started = time.perf_counter()
    with IN_TURN, as_before(trial.threads), divergence_untold():
        try:
            materials = load_materials(source)
            return _trained(materials, trial, started)
        except Exception as error:  # whatever a method, a dataset or a device raises
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return Outcome(trial.key, seconds=time.perf_counter() - started, failed=reason[:600])


def load_materials(source: Materials | str) -> Materials:
    """Returns the materials, read from the file that this comparison has written where ``source`` names one."""
    if isinstance(source, Materials):
        return source
    with open(source, "rb") as file:
        return pickle.load(file)


def wrapped_copy(materials: Materials, setting: TrialSetting, seed: int) -> nn.Module:
    """Returns a copy of the model with the setting's methods on it; what is random there depends on the seed alone."""

    def make() -> nn.Module:
        model = copy.deepcopy(materials.model)
        torch.manual_seed(seed)
        return wrap(model, list(setting.methods), num_classes=materials.parts.outputs)

    return materials.templates.model(setting.group, seed, make)


def fit_setting(model: nn.Module, train: Any, trial: TrialRun, options: dict[str, Any], **more: Any) -> Any:
    """Trains a wrapped copy as the setting says, and returns the history."""
    common: dict[str, Any] = {**options, "seed": trial.seed, "progress": False, **more}
    if trial.setting.closed:
        return fit(model, train, **common)
    return fit(model, train, lr=trial.setting.lr, epochs=trial.epochs, cycles=trial.cycles, **common)


def _fitted(materials: Materials, model: nn.Module, trial: TrialRun) -> Any:
    """Trains a run to its end, from its checkpoint where there is one, and returns the history."""
    train, templates, group = materials.parts.folds[trial.fold][0], materials.templates, trial.setting.group
    if trial.setting.closed:
        return fit_setting(model, train, trial, materials.options)
    known: dict[str, Any] = {"cache": False} if group in templates.whole else {}
    with sharing_head(templates.head(group, trial.seed)):
        kept = {"checkpoint": Path(trial.folder) / CHECKPOINT, "resume": True}
        history = fit_setting(model, train, trial, materials.options, **kept, **known)
    if not history.features:  # nothing is frozen below what trains: the next run needn't look again
        templates.whole.add(group)
    return history


def _trained(materials: Materials, trial: TrialRun, started: float) -> Outcome:
    _, val = materials.parts.folds[trial.fold]
    model, place = wrapped_copy(materials, trial.setting, trial.seed), Path(trial.folder)
    place.mkdir(parents=True, exist_ok=True)
    history = _fitted(materials, model, trial)
    metrics = evaluate(model, val, progress=False, **measuring(materials.options))
    numbers = {name: value for name, value in metrics.row.items() if isinstance(value, (int, float))}
    save(model, place / DELTA, results=numbers)  # without seconds: equal runs write equal files
    found = per_image_of(metrics)
    return Outcome(
        trial.key,
        measure=found.what,
        scores=found.scores.tolist(),
        loss=float(metrics.loss),
        seconds=time.perf_counter() - started,
        pace=history.rows[-1]["seconds"],
        trainable=sum(tensor.numel() for tensor in trainable(model).values()),
        bytes=os.path.getsize(place / DELTA),
        rates=dict(history.rates),
        notes=[note for note in (*history.notes, history.head) if note],
    )


def measuring(options: dict[str, Any]) -> dict[str, Any]:
    """Returns those of the settings that `petl.evaluate` takes, too."""
    return {name: options[name] for name in ("objective", "workers", "batch_size") if name in options}


@contextlib.contextmanager
def as_before(threads: int) -> Iterator[None]:
    """Inside, torch computes with so many threads; they and the random generators are afterwards as before."""
    python, numbers, count = random.getstate(), np.random.get_state(), torch.get_num_threads()
    with torch.random.fork_rng():
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(count)
            random.setstate(python)
            np.random.set_state(numbers)
