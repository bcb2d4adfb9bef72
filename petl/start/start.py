"""`start` goes the whole way from a folder of images to a delta: rank, advise, compare, fit, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petl.extraction.undisturbed import rng_restored
from petl.start.backbones import Backbones
from petl.start.budget import Budget
from petl.start.places import places_for
from petl.start.started import Started
from petl.start.way import Way


def start(
    data: Any,
    *,
    models: Any = None,
    minutes: float = 10.0,
    out: str | Path | None = None,
    size: int | None = None,
    seed: int = 0,
    workers: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> Started:
    """Goes from images to a delta: ranks backbones, advises methods, compares them, trains the winner, and writes its report.

    The data's own validation or test images choose nothing and tell the result; where there are none, a fifth is held out for
    that first. The winner is trained on all other images. Three files are left: the delta, a page (`petl.report`), and its
    numbers with those of every step.

    Args:
        data: A folder of class folders (of splits, too), a table, a Dataset with a class for each image, or a pair (train, val).
        models: Backbones to choose among: names of timm's, ``NAME:FILE``, "demo", bare modules, or a list or dict of these. None:
            those whose weights are on this computer, else those that `petl.rank` looks at by itself, which timm fetches.
        minutes: About how long all of it may take; what it decides is how many images are ranked on, how many settings are
            compared, and for how long. A download comes on top.
        out: Name of the files without their suffixes; None: the folder's or the table's, beside it.
        size: Side of the images in pixels, instead of the backbone's own: small images need no 224.
        seed: Of the divisions and of every training.
        overwrite: Replace files of these names.
        options: More for `petl.data.dataset`, where ``data`` is a folder or table.

    Raises:
        DataError: the data can't be opened, has one class, or fewer than four images of one. StateError: a file is there already,
            or can't be written; no backbone can be had. PetlError: an argument that can't be.

    Example::

        started = petl.start("pets", minutes=10)
        print(started)
        model = petl.load("pets.safetensors")
    """
    budget, places = Budget.of_minutes(minutes), places_for(data, out, overwrite=overwrite)
    way = Way(data, Backbones.of(models), budget, places, size, seed, workers, progress, options)
    with rng_restored(None):
        return way.go()
