"""The trials of ``petl demo``: Lite0 adapted to scanned digits in four ways, and a delta reloaded in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from petl.data.pipelines import pipeline
from petl.delta.load import load
from petl.delta.save import save
from petl.demo import Scans, digits, lite0
from petl.inspection.summary import summary
from petl.methods import BN, Input, LoRA
from petl.report.report import report
from petl.training.evaluation import evaluate
from petl.training.fit import fit
from petl.wrapping.lookup import record
from petl.wrapping.wrap import wrap


@dataclass(frozen=True)
class DemoResult:
    """The result of one trial; ``logits`` [64, 10] are the model's outputs for the first test images."""

    name: str
    trainable: int
    path: Path
    accuracy: float
    seconds: float
    logits: Tensor


@dataclass(frozen=True)
class DemoTrial:
    """One way of adapting Lite0 to the digits: methods, channels of the images, and number of epochs."""

    name: str
    methods: list[Any]
    channels: int = 3
    epochs: int = 3

    @property
    def file(self) -> str:
        """Returns the file name of the trial's delta."""
        return f"{self.name.replace(' + ', '-').replace(' ', '-').lower()}.safetensors"


DEMO_SIZE = 64
DELTAS_BYTES = 2_000_000  # that the demo's deltas take together
# BatchNorm's statistics stay the pretrained ones: those of batches of 32 small images make every trial worse
FROZEN_STATISTICS = BN(stats="keep")
DEMO_TRIALS = (
    DemoTrial("linear probe", ["probe"], epochs=20),  # cheap: it trains on features that are computed once
    DemoTrial("BN tuning", [FROZEN_STATISTICS]),
    DemoTrial("LoRA", [LoRA(rank=8)]),
    DemoTrial("input + BN + LoRA", [Input(in_chans=1), FROZEN_STATISTICS, LoRA(rank=8)], channels=1),
)


def run_trial(trial: DemoTrial, folder: Path, *, quick: bool = False, seed: int = 0) -> DemoResult:
    """Adapts Lite0 to the digits in one way and saves the delta into ``folder``.

    ``quick`` trains for one epoch on a tenth of the images.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)
    train, test = digits(DEMO_SIZE, channels=trial.channels)
    model = wrap(lite0(), trial.methods, num_classes=len(train.classes))
    record(model).pipeline = pipeline(model, size=DEMO_SIZE)  # type: ignore[union-attr]  # just wrapped
    part = Subset(train, range(len(train) // 10)) if quick else train
    fit(model, part, epochs=1 if quick else trial.epochs, batch_size=32, seed=seed, labels=train.classes)
    metrics = evaluate(model, test)
    path = folder / trial.file
    save(model, path, labels=train.classes, results={"accuracy": metrics.accuracy})
    numbers, logits = summary(model).trainable, _first_logits(model, test)
    return DemoResult(trial.name, numbers, path, metrics.accuracy, time.perf_counter() - start, logits)


def _first_logits(model: nn.Module, test: Scans) -> Tensor:
    with torch.no_grad():
        return model.eval()(test.images[:64])


def logits_of_new_process(result: DemoResult) -> Tensor:
    """Returns the logits [64, 10] of the saved delta in a new process, for the same images as ``result.logits``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.pt"
        subprocess.run([sys.executable, "-m", __name__, str(result.path), str(path)], check=True)
        return torch.load(path, weights_only=True)


def write_demo_report(trial: DemoTrial, result: DemoResult, *, quick: bool = False) -> Path:
    """Writes the report of a trial's delta, on the demo's test images, into its folder; returns the page's path."""
    model = load(result.path, lite0())
    test = digits(DEMO_SIZE, channels=trial.channels).test
    page = result.path.with_suffix(".html")
    about, images = "scanned digits that weren't trained on", 100 if quick else 500
    return report(model, test, page, about=about, delta=result.path, images=images, overwrite=True).path


def write_logits(delta: str, path: str) -> None:
    """Loads a delta of the demo onto Lite0 and writes its logits for the first test images to ``path``."""
    model = load(delta, lite0())
    channels = pipeline(model)["input_size"][0]
    torch.save(_first_logits(model, digits(DEMO_SIZE, channels=channels).test), path)


if __name__ == "__main__":  # python -m petl.cli.demo_trials DELTA LOGITS: the new process of logits_of_new_process
    write_logits(*sys.argv[1:])
