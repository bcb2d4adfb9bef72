"""Makes the `Comparison` of a race that is over: the winner, its score on images that chose nothing, the table, the files."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from petl.delta.load import load
from petl.findings import as_text
from petl.format.atomic_files import open_atomically
from petl.objectives.measured import TaskMetrics, per_image_of
from petl.training.evaluation import evaluate
from petl.trials.choosing import Standing, winner
from petl.trials.comparison import Comparison, SettingRow, claims_of
from petl.trials.race import Race, Runner
from petl.trials.settings import PROBE
from petl.trials.telling import Baseline, baseline, chance_of, raw_pixel_scores, told_of
from petl.trials.trial import DELTA, measuring
from petl.trials.workshop import file_name

RESULT, PIXELS = "comparison.json", "raw pixels"


def comparison_of(race: Race, ranked: Sequence[Standing], margin: float | None, *, keep: bool) -> Comparison:
    """Returns the comparison, and with ``keep`` writes it and the finalists' deltas into the folder."""
    best, parts = _winner(race, ranked, margin), race.workshop.materials.parts
    metrics = _measured(race, best)
    scores, measure = per_image_of(metrics).scores, per_image_of(metrics).what
    told, chance, baselines = told_of(scores, measure), chance_of(metrics), _baselines(race, best, scores)
    found = Comparison(
        best_name=best.setting.name,
        leader=ranked[0].name,
        rows=_rows(race, ranked),
        measure=measure,
        margin=margin,
        held_out=told,
        held_out_is="own" if parts.own else "fifth",
        chance=chance,
        baselines=baselines,
        claims=claims_of(told, chance, baselines),
        **_extent(race),
        plan=_plan_sentences(race),
        repeat=_repeat(race, best),
        delta=str(_kept(race, best)) if keep else None,
    )
    content = _write(race, found) if keep else _delta(race, best).read_bytes()
    return found.with_base(race.workshop.materials.model, content)


def _extent(race: Race) -> dict[str, Any]:
    parts, spent = race.workshop.materials.parts, race.workshop.journal.elapsed
    images: dict[str, Any] = {"folds": len(parts.folds), "images": parts.chosen_by}
    return {"rungs": race.rungs, **images, "seconds": spent, "budget": race.seconds}


def _winner(race: Race, ranked: Sequence[Standing], margin: float | None) -> Runner:
    """Returns the setting that wins, and marks it."""
    trainable = {one.name: race.entries[one.name].outcomes[0].trainable for one in ranked}
    entry = race.entries[winner(ranked, trainable, margin)]
    near = "within one standard error of" if margin is None else f"no more than {margin:g} behind"
    entry.end, entry.why = "winner", f"the fewest trainable numbers {near} the leader"
    return entry


def _delta(race: Race, entry: Runner) -> Path:
    """Returns the file of the delta of a setting's first seed."""
    return Path(race.workshop.trial(entry.setting, 0, entry.epochs).folder) / DELTA


def _measured(race: Race, entry: Runner) -> TaskMetrics:
    """Returns how well a setting's model does on the images that chose nothing."""
    materials = race.workshop.materials
    model = load(_delta(race, entry), copy.deepcopy(materials.model))
    return evaluate(model, materials.parts.told, progress=False, **measuring(materials.options))


def _baselines(race: Race, entry: Runner, scores: torch.Tensor) -> list[Baseline]:
    """Returns the probe in closed form and, for classes, raw pixels, on the same images."""
    parts, measure = race.workshop.materials.parts, entry.outcomes[0].measure
    probe = next((e for e in race.entries.values() if e.setting.closed and e.end != "failed"), None)
    found = []
    if probe is not None and probe is not entry:
        found.append(baseline(PROBE, scores, per_image_of(_measured(race, probe)).scores, measure))
    if parts.task == "classification":
        pixels = raw_pixel_scores(race.workshop.materials.model, parts)
        if pixels is not None and len(pixels) == len(scores):
            found.append(baseline(PIXELS, scores, pixels, measure))
    return found


def _rows(race: Race, ranked: Sequence[Standing]) -> list[SettingRow]:
    """Returns the row of every setting, those that got furthest first, and the best of these first."""
    leader = ranked[0].name
    rows = [_row(race, entry, leader) for entry in race.entries.values()]
    places = {one.name: place for place, one in enumerate(ranked)}

    def order(row: SettingRow) -> tuple[Any, ...]:
        return (row.end == "failed", places.get(row.name, len(places)), -row.rung, -(row.accuracy or 0.0))

    return sorted(rows, key=order)


def _row(race: Race, entry: Runner, leader: str) -> SettingRow:
    setting, outcomes = entry.setting, [entry.outcomes[seed] for seed in sorted(entry.outcomes)]
    known: dict[str, Any] = dict.fromkeys(("accuracy", "error", "gap", "gap_error"))
    if entry.end != "failed" and outcomes:
        scores = entry.scores(len(outcomes))
        told, gap = told_of(scores, outcomes[0].measure), race.gap(setting.name, leader)
        known = {"accuracy": told.accuracy, "error": told.error, "gap": gap[0], "gap_error": gap[1]}
    first = outcomes[0] if outcomes else None
    return SettingRow(
        name=setting.name,
        method=setting.text,
        factor=setting.factor,
        rates=first.rates if first else {},
        rung=entry.rung,
        epochs=entry.epochs,
        **known,
        images=len(entry.scores(len(outcomes))) if outcomes else 0,
        seeds=len(outcomes),
        seed_accuracies=[sum(outcome.scores) / len(outcome.scores) for outcome in outcomes],
        seconds=entry.seconds,
        bytes=first.bytes if first else 0,
        trainable=first.trainable if first else 0,
        end=entry.end,
        why=entry.why or _why(race, setting.name, leader, known),
        notes=first.notes if first else [],
    )


def _why(race: Race, name: str, leader: str, known: dict[str, Any]) -> str:
    if name == leader:
        return "the leader; another one that is near enough trains fewer numbers"
    near = "within" if known["gap"] <= known["gap_error"] else "more than"
    return f"{known['gap']:.3f} +- {known['gap_error']:.3f} behind {leader}: {near} one standard error"


def _plan_sentences(race: Race) -> list[str]:
    seeds = f"{race.plan.seeds} seed{'s' * (race.plan.seeds != 1)} of the finalists"
    budget = "" if race.seconds is None else f", of {race.seconds:g} s that were given"
    took = f"The comparison took {race.workshop.journal.elapsed:.0f} s{budget}."
    return [f"Plan: {race.plan.said}; {seeds}. {took}", *race.notes]


def _repeat(race: Race, entry: Runner) -> str:
    """Returns the line that trains the winner."""
    methods, options = entry.setting.text, race.workshop.materials.options
    if entry.setting.closed:
        return f"To repeat it: wrap with {methods}; petl.fit(model, train)."
    cycles = tuple(end for end in race.plan.rungs if end <= entry.epochs)
    return (
        f"To repeat it: wrap with {methods}; petl.fit(model, train, lr={entry.setting.lr!r}, epochs={entry.epochs}, "
        f"cycles={cycles}, batch_size={options['batch_size']})."
    )


def _kept(race: Race, entry: Runner) -> Path:
    """Returns where the folder keeps a finalist's delta; of two settings with one file name, the later one has its number too."""
    name = file_name(entry.setting.name)
    same = [one for one in race.entries.values() if file_name(one.setting.name) == name]
    return race.workshop.folder / f"{name if same[0] is entry else f'{name}-{entry.setting.number}'}.safetensors"


def _write(race: Race, found: Comparison) -> None:
    for entry in race.entries.values():
        if entry.end in ("winner", "finalist", "closed form"):
            with open_atomically(_kept(race, entry)) as file, open(_delta(race, entry), "rb") as delta:
                shutil.copyfileobj(delta, file)
    with open_atomically(race.workshop.folder / RESULT) as file:
        file.write(as_text(found).encode())
