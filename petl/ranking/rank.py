"""`rank` measures candidate backbones on a few of the user's images and says which one to take, and why."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from petl.data.inputs import Data
from petl.data.table_sources import is_image_table
from petl.errors import PetlError, near
from petl.extraction.accelerator import private_accelerator, progress_bar
from petl.extraction.undisturbed import rng_restored
from petl.ranking.candidates import Selection, select_candidates
from petl.ranking.contenders import Contender, Options
from petl.ranking.contest import Contest, Measure
from petl.ranking.findings_of import alarms_of, class_counts, held_out_of, ranked_rows, raw_pixels_of, warnings_of
from petl.ranking.limits import Limits
from petl.ranking.published import published_source
from petl.ranking.ranked_images import RankedImages, ranked_images
from petl.ranking.ranking import Ranking
from petl.ranking.timm_tags import known_licences
from petl.wrapping.licences import LicenceLimit


def rank(
    candidates: Any = None,
    data: Data | None = None,
    *,
    images: int = 1000,
    max_params: float | str | None = None,
    max_gmacs: float | str | None = None,
    max_side: int | None = None,
    licence: LicenceLimit = None,
    most: int = 8,
    size: int | None = None,
    pipeline: Mapping[str, Any] | None = None,
    head: bool | str | Sequence[str] = True,
    batch_size: int = 64,
    workers: int = 0,
    strict: bool = False,
    cache: bool | str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Ranking:
    """Measures backbones on at most ``images`` of your images and returns them ordered: the best first, with what each costs.

    Each backbone reads the images in its own way. Its score is the accuracy of leave-one-out predictions from its features, by
    ridge regression or nearest neighbours, whichever does better; the balanced accuracy where classes are uneven. All are read on
    128 images, and those whose paired bootstrap interval doesn't lie below the leader's on 512, then on all. What ties with the
    highest score is ordered by timm's published accuracy, then by cost. Models are afterwards as before, bit for bit.

    Args:
        candidates: Names of timm's weights ("resnet50.a1_in1k": timm fetches them), "NAME:WEIGHTS_FILE", models, wrapped or
            not, patterns ("convnext*"), or a list or dict of these. None: weights of timm within the limits, ``most`` of them,
            of different kinds of networks and of pretraining.
        data: A folder of class folders, a table, a Dataset with a class for each image, or a pair (train, val) of these. Its own
            images for validation choose nothing; where it has none, a fifth of the images is held out.
        images: At most so many are read, every class in its share.
        max_params: The most parameters, also as "30M". A pattern or filter takes at most 100 million unless this says otherwise.
        max_gmacs: The most billions of multiply-adds an image.
        max_side: The largest side of a backbone's images, in pixels.
        licence: "open" (Apache, MIT, BSD), or names of licences. Candidates that you name stay if their licence isn't known.
        most: How many candidates a pattern or a filter brings at most.
        size: Side of the images in pixels, instead of each backbone's own; transformers take the nearest multiple of their
            patches.
        pipeline: Changes for every backbone's input pipeline, such as ``{"crop_pct": 1.0}``, see `petl.data.pipeline`.
        head: The names of the classifier's modules in candidates that are models and not timm's, as for `petl.features`.
        strict: Whether a file that can't be read is an error; without it, such files are left out for all.
        batch_size, workers: How images are read, as for `petl.features`.
        cache: Where features are kept, as for `petl.features`.
        seed: Of the choice of images, and of the intervals.
        options: For tables and folders, more for `petl.data.dataset`, such as ``label="species"``.

    A candidate that can't be had (no network, no weights, no memory) is listed with the reason, and the others go on. The result
    is the same at every call, but for the times.

    Raises:
        DataError: the data can't be opened, has one class, or fewer than four images of one. PetlError: an unknown name, a limit
            that can't be, or nothing within the limits. StateError: none could be measured.

    >>> import petl, timm
    >>> x, y = torch.randn(40, 3, 32, 32), torch.arange(40) % 2
    >>> small = {"a": timm.create_model("test_resnet"), "b": timm.create_model("test_efficientnet")}
    >>> ranking = petl.rank(small, torch.utils.data.TensorDataset(x + y[:, None, None, None], y))
    >>> sorted(row.name for row in ranking.rows), ranking.best in ranking.ties
    (['a', 'b'], True)
    """
    start = time.perf_counter()
    candidates, data = candidates_and_data(candidates, data)
    limits = Limits.of(max_params, max_gmacs, max_side, licence, known_licences() if licence is not None else [])
    _refuse_counts(most=most, size=size)
    _refuse_options(data, options)
    chosen = select_candidates(candidates, limits, most)
    reading = {"batch_size": batch_size, "workers": workers, "strict": strict, "cache": cache}
    with rng_restored(data), private_accelerator(None) as accelerator, progress_bar(accelerator, progress) as shown:
        found = ranked_images(data, images, seed, options, strict=strict)
        side = size if size is not None else found.train.transformed_side
        settings = Options(side, dict(pipeline or {}), head, accelerator.device, limits, reading)
        contest = run_contest(chosen, found, settings, seed, shown)
        return _ranking(contest, chosen, settings, start)


def run_contest(chosen: Selection, found: RankedImages, settings: Options, seed: int, shown: Any) -> Contest:
    """Returns the finished contest of the chosen candidates on these images; ``shown`` is a progress bar."""
    y = found.train.y[torch.from_numpy(found.rows)]
    measure = Measure.of(y, len(found.classes))
    contest = Contest(found, measure, seed, [Contender(candidate) for candidate in chosen.candidates])
    task = shown.add_task("rank", total=len(contest.alive) * len(found.rows), note="")

    def after(count: int) -> None:
        shown.advance(task, count)
        shown.update(task, note=f"{len(contest.alive)} candidates, {len(contest.dropped)} dropped")

    contest.run(settings, after)
    return contest


def _ranking(contest: Contest, chosen: Selection, settings: Options, start: float) -> Ranking:
    """Returns what the contest means."""
    rows, images = ranked_rows(contest), contest.images
    best = next(one for one in contest.alive if one.name == rows[0].name)
    raw, held = raw_pixels_of(contest, best), held_out_of(contest, best, settings)
    source = published_source()
    return Ranking(
        rows=rows,
        best=best.name,
        ties=[row.name for row in rows if row.tie],
        measure=contest.measure.name,
        images=len(best.rows),
        total=images.total,
        classes=dict(class_counts(contest)),
        raw_pixels=raw,
        held_out=held,
        held_out_note="" if held else images.held_from,
        left_out={**chosen.left_out, **contest.failed},
        considered=chosen.considered,
        alarms=alarms_of(raw, rows[0]),
        warnings=warnings_of(rows, images.notes, len(images.rows) - len(best.rows)),
        prior=f"results of huggingface/pytorch-image-models, {source['date']} ({source['commit'][:8]})",
        seed=contest.seed,
        seconds=time.perf_counter() - start,
    )


def candidates_and_data(candidates: Any, data: Any) -> tuple[Any, Any]:
    """Returns (candidates, data), also where they were given the other way round, or the data alone.

    Raises:
        PetlError: there is no data.
    """
    if data is None and _is_data(candidates):
        return None, candidates
    if data is None:
        raise PetlError("rank needs data: after the candidates, a folder of class folders, a table or a Dataset")
    return (
        (data, candidates)
        if _is_data(candidates) and not _is_data(data) and _names_models(data)
        else (candidates, data)
    )


def _is_data(value: Any) -> bool:
    """Returns whether this can only be data: what exists as a file or folder, or gives items by number and is no list."""
    if isinstance(value, (str, Path)):
        return not _is_name(value) and os.path.exists(value)
    listed = isinstance(value, (list, tuple, dict, nn.Module)) or value is None
    return not listed and (hasattr(value, "__getitem__") or hasattr(value, "dataset"))


def _names_models(value: Any) -> bool:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else [value]
    return len(items) > 0 and all(isinstance(item, nn.Module) or _is_name(item) for item in items)  # type: ignore[arg-type]  # sized


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and timm.is_model(value.partition(":")[0].partition(".")[0])


def _refuse_counts(**counts: Any) -> None:
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise PetlError(f"{name}={value!r}; expected a whole number of at least 1")


def _refuse_options(data: Any, options: Mapping[str, Any]) -> None:
    """Raises a PetlError for options that nothing would read: those of tables and folders, for a Dataset."""
    parts = data if isinstance(data, tuple) else (data,)
    if options and not any(isinstance(part, (str, Path)) or is_image_table(part) for part in parts):
        name, own = next(iter(options)), [key for key in rank.__annotations__ if key not in ("options", "return")]
        raise PetlError(
            f"rank has no option {name!r}{near(name, own)}; more options are for folders and tables, and the data is a "
            f"{type(data).__name__}"
        )
