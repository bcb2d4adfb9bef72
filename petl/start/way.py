"""The steps of `petl.start`, one after the other, and what each found."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from petl import data as images_data
from petl.advice.advise import advise
from petl.delta.save import save
from petl.extraction.undisturbed import rng_restored
from petl.findings import Findings, as_text
from petl.format.atomic_files import open_atomically
from petl.methods.default import method_text
from petl.methods.method import Method
from petl.ranking.rank import rank
from petl.report.report import report
from petl.start.backbones import Backbones
from petl.start.budget import Budget, images_to_rank
from petl.start.choice import Choice, choice_of, name_of
from petl.start.parts import StartParts, start_parts
from petl.start.places import Places
from petl.start.started import Started
from petl.training.evaluation import evaluate
from petl.training.fit import fit
from petl.training.held_out import held_out_files
from petl.training.history import History
from petl.trials.compare import compare
from petl.trials.comparison import Comparison
from petl.trials.settings import FACTORS
from petl.trials.too_little import TooLittleTime
from petl.wrapping.lookup import record
from petl.wrapping.wrap import wrap

MOST_COMPARED = 4  # of the methods that are advised
MARGIN = 0.01  # of accuracy, which a cheaper method may be behind: one standard error is several points with few images
FEWER = 2  # of them, at default rates alone, where the time isn't enough for all


@dataclass
class Way:
    """The steps, one after the other, with what each found."""

    data: Any
    backbones: Backbones
    budget: Budget
    places: Places
    size: int | None
    seed: int
    workers: int
    progress: bool
    options: dict[str, Any]
    findings: dict[str, Findings] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def go(self) -> Started:
        chosen = self.ranked()
        model = self.backbones.build(chosen, self.size)
        pipeline = images_data.pipeline(model, size=self.size)
        parts = start_parts(self.data, pipeline, seed=self.seed, options=self.options)
        methods = self.advised(model, parts)
        choice = choice_of(self.compared(model, parts, methods), methods)
        trained, history = self.trained(model, choice, parts, pipeline)
        return self.told(trained, history, (chosen, choice), parts)

    @property
    def common(self) -> dict[str, Any]:
        """Returns the arguments that every verb gets."""
        return {"seed": self.seed, "workers": self.workers, "progress": self.progress}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[float]:
        """Inside, a step runs; the value is the seconds that it may take."""
        began = time.perf_counter()
        if self.progress:
            sys.stderr.write(f"{name} ...\n")
        yield self.budget.share(name)
        self.steps[name] = time.perf_counter() - began

    def ranked(self) -> str:
        """Returns the name of the backbone; a single one that was named isn't ranked."""
        if len(self.backbones) == 1:
            self.skipped["rank"] = "there is one backbone"
            return next(iter(self.backbones.found or {}))
        with self.step("rank") as seconds:
            count = images_to_rank(seconds, len(self.backbones) or 8)
            found = rank(self.backbones.found, self.data, images=count, size=self.size, **self.common, **self.options)
            self.findings["rank"] = found
        return found.best

    def advised(self, model: nn.Module, parts: StartParts) -> dict[str, list[Method]]:
        """Returns the methods to compare, by name."""
        with self.step("advise"):
            found = advise(model, (parts.plain, parts.told), **self.common)
            self.findings["advise"] = found
        return {name_of(model, methods): methods for methods in found.methods[:MOST_COMPARED]}

    def compared(self, model: nn.Module, parts: StartParts, methods: dict[str, list[Method]]) -> Comparison | None:
        """Returns the comparison of as many of the methods, at as many rates, as the time allows; None if it allows none."""
        with self.step("compare") as seconds:
            until = time.perf_counter() + max(seconds, 1.0)
            for some, factors in ((methods, FACTORS), (dict(list(methods.items())[:FEWER]), (1.0,))):
                if (left := until - time.perf_counter()) <= 0:
                    break  # the first try has measured for as long as both may take
                try:
                    limits: Any = {"seconds": max(round(left, 1), 0.1), "factors": factors, "margin": MARGIN}
                    found = compare(model, (parts.train, parts.told), some, **limits, **self.common)
                except TooLittleTime as error:
                    self.skipped["compare"] = f"{error}".partition(";")[0]
                    continue
                self.skipped.pop("compare", None)
                self.findings["compare"] = found
                return found
        return None

    def trained(self, model: nn.Module, chosen: Choice, parts: StartParts, pipeline: Any) -> tuple[nn.Module, History]:
        """Returns the backbone with the chosen methods, trained on all images that may be learned from, and how that went."""
        with self.step("fit") as seconds, rng_restored(None):
            wrap(model, list(chosen.methods), num_classes=parts.outputs)
            record(model).pipeline = dict(pipeline)  # type: ignore[union-attr]  # just wrapped
            timed = (
                {"lr": f"x{chosen.factor:.4g}", "minutes": max(seconds, 1.0) / 60} if chosen.factor is not None else {}
            )
            return model, fit(model, parts.train, labels=parts.names, **timed, **self.common)

    def told(self, model: nn.Module, history: History, names: tuple[str, Choice], parts: StartParts) -> Started:
        """Measures the model on the images that chose nothing, and writes the three files."""
        metrics = evaluate(model, parts.told, progress=False)
        save(model, self.places.delta, labels=parts.names, results=metrics.row)
        with self.step("report"):
            shown: Any = {"findings": list(self.findings.values()), "history": history, "delta": self.places.delta}
            shown["about"] = f"{self.places.delta.stem}, images that chose nothing"
            page = report(model, parts.told, self.places.page, overwrite=True, **shown, **self.common)
        started = self.summed_up(metrics, names, parts)
        numbers = {**page.to_json(), "start": started.to_json()}
        with open_atomically(self.places.numbers) as file:
            file.write(as_text(numbers).encode())
        return started

    def summed_up(self, metrics: Any, names: tuple[str, Choice], parts: StartParts) -> Started:
        """Returns what came out."""
        (backbone, chosen), error = names, metrics.standard_errors.get("accuracy", 0.0)
        return Started(
            backbone=backbone,
            methods=" + ".join(method_text(method) for method in chosen.methods),
            factor=chosen.factor,
            measure="accuracy",
            score=metrics.accuracy,
            error=error,
            images=len(parts.told),
            told_is="own" if parts.own else "fifth",
            held_out=None if parts.own else held_out_files(parts.train, parts.told),
            claimed=metrics.accuracy > metrics.baseline["accuracy"] + 2 * error,
            verdict=self.findings["advise"].verdict.transfer,  # type: ignore[attr-defined]  # an Advice
            delta=self.places.delta,
            page=self.places.page,
            numbers=self.places.numbers,
            bytes=self.places.delta.stat().st_size,
            steps=dict(self.steps),
            skipped=dict(self.skipped),
            findings={name: found.to_json() for name, found in self.findings.items()},
            next=self.commands(backbone),
        )

    def commands(self, backbone: str) -> list[str]:
        """Returns what to do next, as command lines."""
        delta, weights = shlex.quote(str(self.places.delta)), self.backbones.option(backbone)
        source = shlex.quote(str(self.data)) if isinstance(self.data, (str, Path)) else "IMAGES"
        fill = "NEW: a folder of images" + "; WEIGHTS: a file of the model's state_dict" * weights.endswith("WEIGHTS")
        return [
            f"petl predict {delta} NEW{weights} --out predictions.csv  # {fill}",
            f"petl shift {delta} {source} NEW{weights}  # has something changed in new images?",
            f"petl inspect {delta}",
        ]
