"""`compare` finds out which method, with which learning rates, suits a model and some images: by successive halving."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl.data.random_state import seeded_rng
from petl.errors import PetlError, StateError
from petl.extraction.dataset_fingerprint import dataset_fingerprint
from petl.training.checkpoints import refuse_checkpoint_folder
from petl.trials.comparison import Comparison
from petl.trials.conclusion import comparison_of
from petl.trials.early import early
from petl.trials.journal import Journal
from petl.trials.options import refuse_arguments
from petl.trials.parts import open_parts
from petl.trials.plan import SEEDS, Cost, RunPlan, fixed_plan, plan_within
from petl.trials.race import Race
from petl.trials.settings import FACTORS, TrialSetting, middle_ones, settings_for
from petl.trials.trial import Materials, as_before
from petl.trials.workshop import Workshop, refuse_executor
from petl.wrapping.fingerprints import combined_fingerprint, fingerprints
from petl.wrapping.lookup import bare, wrapped_inside


def compare(
    model: nn.Module,
    data: Any,
    methods: Any = None,
    seconds: float | None = 600,
    *,
    epochs: int | None = None,
    factors: Sequence[float] = FACTORS,
    seeds: int = SEEDS,
    images: int | None = None,
    objective: Any = None,
    margin: float | None = None,
    batch_size: int = 32,
    folder: str | Path | None = None,
    executor: Executor | None = None,
    seed: int = 0,
    workers: int = 0,
    progress: bool = True,
) -> Comparison:
    """Compares ways to adapt a model to images, by short trainings of all and longer ones of the best.

    Each method is tried with several factors of petl's default learning rates, beside a probe in closed form, which has none.
    All see the same images in the same order, start from the same classifier, and are measured on the same hold-out. After each
    rung the top third goes on, and all that is within one standard error (paired, over the images of the hold-out) of the
    leader; rungs are about three times as long as the one before, and a training goes on where it was. The finalists (two, and
    up to four with ties) are trained with more seeds, each with another fold held out. The winner trains the fewest numbers of
    all within one standard error of the best. Its score is told on images that chose nothing.

    Args:
        model: A bare timm model, or another one of images, not wrapped. It stays as it is, bit for bit.
        data: A folder or table, a Dataset of pairs, or a pair (train, val) of these. Its own val or test images choose nothing
            and tell the score; where there are none, a fifth is held out for that first.
        methods: What `petl.wrap` takes as one method (``"lora"``, ``petl.LoRA(rank=4)``), a list of such, each of which is
            compared (``["norm", ["norm", "lora"]]``: a list inside is a combination), or a dict with names of your own.
            None: "best", "norm", "lora", "adapter" and "full", as far as they fit the model.
        seconds: About how long this may take, by the time that a few updates take: it decides how many rungs there are and how
            long they are, not what a run gives. None: no limit, and a plan that depends on no time.
        epochs: Of the last rung, or the most that it may have. None: as many as `petl.fit` chooses.
        factors: Of the default rates.
        seeds: Of the finalists, 1 or more.
        images: At most so many to learn from and choose by, with every class in its share. None: all.
        objective: What the targets mean, as for `petl.fit`: classes, several labels, or numbers.
        margin: How far behind the best score the winner may be, which is the cheapest of these: 0.01 is a point of accuracy, with
            0 the best itself wins. None: one paired standard error, which with few images is several points.
        folder: Keeps ``runs.json``, which grows as runs end, ``comparison.json``, the delta of each finalist, and checkpoints
            (which are pickles: go on only in folders that you trust). Called again with the same arguments, an interrupted
            comparison goes on where it was. None: a temporary folder.
        executor: Spreads runs over processes or machines, which need to see ``folder``: ``ProcessPoolExecutor(2)``, dask's
            ``client.get_executor()``, or any other of `concurrent.futures`. With the same number of torch's threads, the results
            are the same, bit for bit. In threads of one process runs take turns.
        seed: Of the division of the images, and the first of the trainings.
        workers: Processes that read images, in each run.
        progress: A line on stderr for each run as it ends.

    Returns:
        A `Comparison`: it prints as sentences and a table; ``best`` is the model that won, wrapped and trained.

    Raises:
        DataError: the images have one class, fewer than four of a class, or no labels, or can't be divided.
        MethodError, SiteError: a method that isn't known, or has no place in the model.
        StateError: the model is wrapped; ``folder`` holds another comparison; the executor broke.
        PetlError: an argument that can't be; too few seconds for one epoch of each setting; every setting failed.

    >>> import petl, timm, torch
    >>> data = torch.utils.data.TensorDataset(torch.randn(30, 3, 64, 64), torch.arange(30) % 2)
    >>> found = petl.compare(timm.create_model("test_vit"), data, ["norm"], None, epochs=1, seeds=1, progress=False)
    >>> sorted(row.name for row in found.rows)
    ['norm x0.33', 'norm x1', 'norm x3', 'probe']
    """
    numbers = {"seconds": seconds, "epochs": epochs, "seeds": seeds, "margin": margin}
    refuse_arguments(factors=factors, batch_size=batch_size, workers=workers, **numbers)
    refuse_executor(executor)
    plain = _bare(model)
    with as_before(torch.get_num_threads()):
        parts = open_parts(plain, data, objective=objective, images=images, seed=seed)
        settings = settings_for(plain, methods, tuple(factors), parts.outputs)
        options = {"objective": objective, "batch_size": batch_size, "workers": workers}
        materials = Materials(copy.deepcopy(plain), parts, options)
        asked = {"seconds": seconds, "epochs": epochs, "seeds": seeds, "seed": seed}
        with _work_folder(folder) as place:
            journal = Journal(place, {**asked, **_fingerprints(materials, settings)} if folder is not None else asked)
            workshop = Workshop(materials, place, journal, executor, seed, progress)
            try:
                plan, jobs = _plan(workshop, settings, asked)
                workshop.cycles = plan.rungs or (1,)
                race = Race(workshop, settings, plan, seconds, jobs)
                return comparison_of(race, race.run(), margin, keep=folder is not None)
            finally:
                workshop.close()


def _bare(model: Any) -> nn.Module:
    """Returns the bare model inside DDP and such; a StateError for a wrapped one."""
    if not isinstance(model, nn.Module):
        raise PetlError(
            f"got a {type(model).__name__} as the model; expected a timm model, such as timm.create_model(name)"
        )
    if wrapped_inside(model):
        raise StateError(
            f"this {type(bare(model)).__name__} is wrapped, and compare begins each setting at the bare backbone; pass a fresh "
            "one, or petl.unwrap(copy.deepcopy(model))"
        )
    return bare(model)


@contextlib.contextmanager
def _work_folder(folder: str | Path | None) -> Iterator[Path]:
    """Yields the folder to work in, which exists; a temporary one is removed afterwards.

    After an error a folder that was made here and is still empty is gone again, too.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="petl-compare-", ignore_cleanup_errors=True) as place:
            yield Path(place)
        return
    if not isinstance(folder, (str, Path)):
        raise PetlError(f"folder={folder!r}; expected the path of a folder, or None")
    refuse_checkpoint_folder(folder)
    place = Path(folder)
    made = [one for one in (place, *place.parents) if not one.exists()]
    try:
        place.mkdir(parents=True, exist_ok=True)
        yield place
    except BaseException:  # such as too few seconds, or Ctrl-C, before anything was kept
        with contextlib.suppress(OSError):  # one that isn't empty stays, with those around it
            for one in made:
                one.rmdir()
        raise


def _fingerprints(materials: Materials, settings: list[TrialSetting]) -> dict[str, Any]:
    """Returns what tells this comparison from another in the same folder, as plain values."""
    parts, state = materials.parts, materials.model.state_dict()
    with seeded_rng(0):  # a dataset that draws gives the same images again
        images = [dataset_fingerprint(part) for part in (*(val for _, val in parts.folds), parts.told)]
    return {
        "model": combined_fingerprint(dict(zip(state, fingerprints(state.values()), strict=True))),
        "data": images,
        "settings": [[one.name, [method.to_json() for method in one.methods], one.factor] for one in settings],
        "batch_size": materials.options["batch_size"],
        "objective": _text(materials.options["objective"]),
    }


def _text(objective: Any) -> str:
    return (
        objective
        if isinstance(objective, str)
        else getattr(objective, "__name__", repr(objective).partition(" at 0x")[0])
    )


def _plan(workshop: Workshop, settings: list[TrialSetting], asked: dict[str, Any]) -> tuple[RunPlan, float]:
    """Returns the plan, by the time that a few updates take where there is a limit, and how many runs there are at a time."""
    train, batch = workshop.materials.parts.folds[0][0], workshop.materials.options["batch_size"]
    updates, trained = -(-len(train) // batch), [setting for setting in settings if not setting.closed]

    def decide() -> dict[str, Any]:
        if not trained:
            return {**vars(RunPlan((), asked["seeds"], "no setting trains by gradient")), "jobs": 1.0}
        if asked["seconds"] is None:
            plan, jobs = fixed_plan(asked["epochs"], updates, asked["seeds"]), 1.0
            return {**vars(plan), "jobs": jobs}
        one_of = {setting.group: setting for setting in trained}  # whatever its rates are, a method takes the same time
        known = early(workshop.materials, trained, asked, workshop.journal, workshop.executor)
        timed, jobs = workshop.time([workshop.trial(setting, 0, 1) for setting in one_of.values()], known)
        costs = {setting.name: timed.get(one_of[setting.group].name, Cost(0, 0)) for setting in trained}
        limits = {name: asked[name] for name in ("seconds", "epochs", "seeds")}
        limits |= {"used": workshop.journal.elapsed, "middle": middle_ones(trained)}
        plan = plan_within(costs=costs, updates=updates, jobs=jobs, **limits)
        return {**vars(plan), "jobs": jobs}

    found = dict(workshop.journal.decided("plan", decide))
    rungs, jobs = tuple(found.pop("rungs")), found.pop("jobs")
    return RunPlan(rungs, **found), jobs
