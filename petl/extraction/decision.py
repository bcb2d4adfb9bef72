"""Decides whether ``fit`` trains on cached features of the frozen part, or runs the whole model in every step.

Features are used where training on them gives what training the whole model gives. If only the classifier trains, the features
are its inputs. Otherwise they are the inputs of the model's tail (`tail.py`). All of this is tried on images before training.
Where features can't be used, the decision holds the reason: `reasons.py` lists them all, with what to do.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from petl.data.first_image import one_image
from petl.data.loaders import Loader
from petl.data.pairs import images_and_targets
from petl.data.pipelines import pipeline
from petl.data.sampling import Shuffle
from petl.errors import PetlError, StateError
from petl.extraction import reasons
from petl.extraction.cut_points import CutPoint, cut_points
from petl.extraction.feature_source import FeatureSource
from petl.extraction.flops import share_of_flops
from petl.extraction.image_passes import image_count, user_dataset
from petl.extraction.npy_writer import StorageError
from petl.extraction.options import FeatureOptions
from petl.extraction.provenance import provenance
from petl.extraction.randomness import differs_when_reread, may_change
from petl.extraction.reasons import Reason
from petl.extraction.skippable import changes_in_training, hooked_modules
from petl.extraction.store import Store
from petl.extraction.tail import MODEL_ERRORS, Tail
from petl.extraction.tail_search import find_tail
from petl.graft.kinds import Graft
from petl.graft.values import input_dtype

Loaders = tuple[Loader, Loader | None]
WORTHWHILE_SHARE = 0.25  # of a forward's multiplications: with less below the cut point, reading features isn't faster


@dataclass(frozen=True)
class UseFeatures:
    """The decision to train on features, which ``source`` computes."""

    source: FeatureSource

    def describe(self, count: int) -> str:
        """Returns the line for the history of a training on ``count`` images."""
        return self.source.describe(count)


@dataclass(frozen=True)
class RunModel:
    """The decision to run the whole model in every step."""

    reason: Reason
    source: ClassVar[None] = None

    def describe(self, count: int) -> str:
        """Returns the line for the history; "" where there was nothing to gain."""
        return f"each step ran the whole model: {self.reason}" if self.reason.reported else ""


Decision = UseFeatures | RunModel


def choose_features(accelerator: Any, model: nn.Module, loaders: Loaders, options: FeatureOptions) -> Decision:
    """Returns the source of the features to train on, or the reason why each step runs the whole model.

    Raises:
        StateError: ``cache`` or ``views`` asks for features, and there can't be any.
    """
    if options.views == 0 or options.cache is False:
        return RunModel(reasons.TurnedOff())
    decision = _try_features(accelerator, model, loaders[0], options)
    if isinstance(decision, UseFeatures) and accelerator.num_processes == 1:
        decision = _place_on_disk(decision.source, loaders, options)
    if isinstance(decision, RunModel) and options.cache:
        raise StateError(f"cache={options.cache!r}: {decision.reason}")
    return decision


def _try_features(accelerator: Any, model: nn.Module, loader: Loader, options: FeatureOptions) -> Decision:
    """Looks for features on images; nothing is stored yet."""
    head = None if options.mixes or options.needs_images else head_features(accelerator, model, loader)
    if head:
        return UseFeatures(head)
    if options.views:
        raise StateError(
            f"views={options.views}, but the head can't be trained on its own here: that needs a model of which the "
            "classifier alone trains ('probe'), without dropout or moving statistics before it, and a Dataset or folder"
        )
    if _reads_beyond(model):
        return RunModel(reasons.SeveralTensors())
    if not (_has_frozen_part(accelerator, model) or options.cache):
        return RunModel(reasons.NoFrozenPart())
    reason = _why_images_may_differ(accelerator, loader, options)
    return RunModel(reason) if reason else _tail_features(accelerator, model, loader, options)


def _reads_beyond(module: nn.Module) -> bool:
    """Returns whether the module holds a graft that reads outputs of earlier modules, such as a classifier on all blocks."""
    return any(isinstance(part, Graft) and part.reads_beyond for part in module.modules())


def _has_frozen_part(accelerator: Any, model: nn.Module) -> bool:
    """Returns whether a large share of a forward, here of zeros, runs before anything that trains."""
    try:
        images = torch.zeros(2, *pipeline(model)["input_size"], device=accelerator.device, dtype=input_dtype(model))
        with accelerator.autocast():
            points = cut_points(model, images)
            return bool(points) and share_of_flops(model, points[0], images) >= WORTHWHILE_SHARE
    except (*MODEL_ERRORS, PetlError):
        return True  # the model may take images of another size: the user's images are tried next


def _why_images_may_differ(accelerator: Any, loader: Loader, options: FeatureOptions) -> Reason | None:
    """Returns why a later step may see other images than the first epoch did, or None."""
    if options.mixes:
        return reasons.Mixes()
    if options.needs_images:
        return reasons.NeedsImages(options.needs_images)
    if not isinstance(loader.sampler, Shuffle):
        return reasons.OwnLoader()
    if accelerator.num_processes > 1:
        return reasons.SeveralProcesses()
    dataset = user_dataset(loader)
    reason = may_change(dataset)
    if isinstance(reason, (reasons.UnknownDataset, reasons.UnknownTransform)) and options.cache:
        return reasons.DiffersWhenReread(type(dataset).__name__) if differs_when_reread(dataset) else None
    return reason


def head_features(accelerator: Any, model: nn.Module, loader: Loader) -> FeatureSource | None:
    """Returns the source of the classifier's inputs, or None where the classifier can't be trained without the model."""
    name = trained_module(model)
    if not name or not isinstance(loader.sampler, Shuffle):
        return None
    head = model.get_submodule(name)
    if isinstance(head, Graft):
        return None  # what a method put into the classifier computes nothing by itself
    if all(key.startswith(f"{name}.") for key, _ in model.named_parameters()):
        return None  # a model inside an outer module, not a head on a frozen part
    if _reads_beyond(head):
        return None
    source = FeatureSource(accelerator, model, head, head)
    images, _ = images_and_targets(one_image(loader), model)
    return source if source.is_exact(images.to(accelerator.device)) else None


def _tail_features(accelerator: Any, model: nn.Module, loader: Loader, options: FeatureOptions) -> Decision:
    """Returns the source of the inputs of the smallest tail that computes and trains as the whole model does."""
    images = images_and_targets(one_image(loader), model)[0].to(accelerator.device)
    images = torch.cat([images, images.flip(-1)])  # batch statistics need more than one image
    with accelerator.autocast():
        points = cut_points(model, images)
        hooked, stochastic = hooked_modules(model), changes_in_training(model)
        skippable = [point for point in points if (stochastic | hooked).isdisjoint(point.below)]
        tail = find_tail(model, skippable, images) if skippable else None
        share = share_of_flops(model, tail.cut, images) if tail else 0.0
    if tail and (share >= WORTHWHILE_SHARE or options.cache):
        return UseFeatures(FeatureSource(accelerator, model, tail.cut.module, tail, per_image=tail.per_image))
    if len(skippable) < len(points):
        return RunModel(_why_not_skippable(points[0], stochastic, hooked))
    if tail:
        return RunModel(reasons.TooLittle(share, tail.cut.name))
    return RunModel(reasons.SeveralTensors() if points else reasons.NoFrozenPart())


def _why_not_skippable(point: CutPoint, stochastic: set[nn.Module], hooked: set[nn.Module]) -> Reason:
    """Returns the reason why the modules below ``point`` must run in every step."""
    kinds = [
        tuple(sorted({type(m).__name__ for m in group.intersection(point.below)})) for group in (stochastic, hooked)
    ]
    return reasons.Stochastic(kinds[0]) if kinds[0] else reasons.Hooked(kinds[1])


def _place_on_disk(source: FeatureSource, loaders: Loaders, options: FeatureOptions) -> Decision:
    """Gives the source a store on disk, if the features have room there."""
    folder = options.cache if isinstance(options.cache, (str, Path)) else None
    try:
        store = Store(folder, options.limit)
    except StorageError as error:
        return RunModel(reasons.NoRoom(str(error)))
    counts = [image_count(loader) or 0 for loader in loaders if loader is not None]
    no_room = store.why_no_room((counts[0] * (options.views or 1) + sum(counts[1:])) * source.per_image)
    if no_room:
        store.close()
        return RunModel(no_room)
    source.store, source.about = store, _provenance_of(source) if folder else {}
    return UseFeatures(source)


def _provenance_of(source: FeatureSource) -> dict[str, Any]:
    """Returns all that the features depend on except the images, for a folder that outlives the run."""
    own = f"{trained_module(source.model)}."
    cut = source.net.cut if isinstance(source.net, Tail) else None
    needs = cut.needs if cut else lambda name: not name.startswith(own)
    return provenance(source.accelerator, source.model, cut.name if cut else own, needs)


def trained_module(model: nn.Module) -> str:
    """Returns the name of the smallest module that holds everything that trains; "" is the model itself."""
    paths = [name.split(".")[:-1] for name, p in model.named_parameters() if p.requires_grad]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))  # up to the shortest
    return ".".join(parts[0] for parts in shared)
