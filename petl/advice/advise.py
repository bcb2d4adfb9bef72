"""`advise` says from a person's own images which method to try, and whether pretraining helps at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from petl.advice.alarms import alarms
from petl.advice.distance import profile_of, stem_facts
from petl.advice.facts import facts_of, new_facts
from petl.advice.measuring import MeasuredParts, Measuring, measured
from petl.advice.opened import Opened, opened
from petl.advice.readings import ClassReader, read_all, verdict_of
from petl.advice.result import Advice, HeadAdvice
from petl.advice.rules import distance_of, shortlist
from petl.data.inputs import Data
from petl.data.wrappers import pipeline_of
from petl.extraction.undisturbed import rng_restored
from petl.heads.closed_form import best_head


def advise(
    model: nn.Module,
    data: Data | tuple[Data, Data],
    new: Any = None,
    *,
    head: bool | str | Sequence[str] = True,
    images: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    pipeline: Mapping[str, Any] | None = None,
    cache: bool | str | Path | None = None,
    progress: bool = True,
    **reading: Any,
) -> Advice:
    """Says what the images are like, whether the pretrained network helps to tell their classes, and which methods to try.

    One cached pass of the model, one of a copy with random weights, and arithmetic: nothing trains. The model and random
    generators are afterwards as before.

    Args:
        model: A timm model or another one that `petl.features` takes, with its weights; wrapped or not.
        data: A folder or table (its training part, and its own val or test where it has one), a Dataset, or a pair of these.
        new: Images that the model will be used on, with labels or without: a folder, files, a table, a tensor or a Dataset.
        head: The names of the classifier's modules where the model isn't timm's, as for `petl.features`.
        images: At most so many images of each part are read by the model, every class in its share (more where it takes that
            to have four of each class). Facts about files and
            duplicates bit for bit are of all images.
        seed: Of the sample, the random weights, and the tests.
        pipeline: From `petl.data.pipeline`, such as one of another size; None: the model's.
        cache: As for `petl.features`.
        reading: More for `petl.data.dataset`, where ``data`` is a folder or a table: ``label="species"``.

    Images with other channels than the model takes (four bands, say) are read by a copy of it with `petl.Input`.

    Raises:
        DataError: fewer than two classes, or fewer than four images of a class; no labels, several, or numbers; no images.
        SiteError: petl can't know what the classifier takes.

    >>> import petl, timm, torch
    >>> pairs = torch.utils.data.TensorDataset(torch.randn(24, 3, 64, 64), torch.arange(24) % 2)
    >>> advice = petl.advise(timm.create_model("test_vit"), pairs)
    >>> advice.verdict.transfer, advice.facts.per_class
    ('ambiguous', {'0': 12, '1': 12})
    """
    settings = Measuring(images, seed, head, batch_size, workers, cache, progress)
    with rng_restored(data):
        found = opened(model, data, new, pipeline, (images, seed), reading)
        return _advice(model, found, measured(found, settings), settings)


def _advice(model: nn.Module, found: Opened, read: MeasuredParts, settings: Measuring) -> Advice:
    """Returns what follows from what was measured."""
    train, y, reader = read.train, read.y, ClassReader(read.y, settings.seed)
    readings = read_all(reader, train.x, train.blocks or {}, read.pictures, read.random)
    verdict, facts = verdict_of(reader, readings), facts_of(found, read)
    profile = profile_of(found.model, read.moments["train"])
    distance = distance_of(readings, verdict, profile)
    best = best_head(train.x, y, int(y.max()) + 1)
    channels = found.channels if found.widened else None
    rows = shortlist(model, facts.median_per_class, distance, channels, (facts.classes, settings.head))
    same_scale = pipeline_of(found.parts["train"].dataset) is not None
    return Advice(
        train.model,
        facts,
        readings,
        verdict,
        tuple(alarms(facts, readings, verdict)),
        profile,
        stem_facts(found.model, read.pictures, same_scale=same_scale),
        distance,
        HeadAdvice(best.kind, best.accuracy(y), best.error(y)),
        tuple(rows),
        new_facts(found, read, facts.duplicates) if "new" in found.parts else None,
    )
