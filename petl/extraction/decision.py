"""Which way a training goes: through the whole model in every step, or on features that are computed once.

Features are taken where that gives what training the whole model gives. For a probe the rest is the head: all that trains lies
in one module, and the model's answer is that module's output. Else it is the model's upper part (`cut_points.py`).
All of this is tried on images before training; where it can't be done, the reason is told.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl.data.batches import Shuffle
from petl.data.inputs import pair, sample
from petl.data.loaders import Loader
from petl.data.pipelines import pipeline
from petl.errors import PetlError, StateError
from petl.extraction.cut_points import cuts, hooked, restless, share
from petl.extraction.dataset_identity import unsteady, varies
from petl.extraction.entry import NoRoom
from petl.extraction.extraction import Road, count_of, dataset_of
from petl.extraction.options import Options
from petl.extraction.provenance import provenance
from petl.extraction.store import Store
from petl.extraction.tail import REFUSALS, Upper, upper
from petl.graft.values import input_dtype

Loaders = tuple[Loader, Loader | None]
WORTH = 0.25  # of a forward's multiplications: less below the cut isn't worth reading features from a disk


def road(accelerator: Any, model: nn.Module, loaders: Loaders, settings: Options) -> tuple[Road | None, str]:
    """The road that leaves the frozen part out, or None and the reason, which is "" where there is no such part.

    Raises:
        StateError: ``cache`` or ``views`` asked for it, and there is none.
    """
    if settings.views == 0 or settings.cache is False:
        return None, ""
    found, why = _found(accelerator, model, loaders[0], settings)
    if found is None and settings.views:
        raise StateError(
            f"views={settings.views}, but the head can't be trained on its own here: that needs a model of which the "
            "classifier alone trains ('probe'), without dropout or moving statistics before it, and a Dataset or folder"
        )
    if found and accelerator.num_processes == 1:
        why = _stored(found, loaders, settings)
    if settings.cache and (why or not found):
        raise StateError(f"cache={settings.cache!r}: {why or 'the model trains from its first layers on'}")
    return (None, why) if why else (found, "")


def _stored(found: Road, loaders: Loaders, settings: Options) -> str:
    """Give the road its place on disk; why it can't have one, or ""."""
    folder = settings.cache if isinstance(settings.cache, (str, Path)) else None
    try:
        store = Store(folder, settings.limit)
    except NoRoom as error:
        return str(error)
    why = _room(found, store, loaders, settings)
    if why:
        store.close()
    else:
        found.store, found.about = store, _about(found) if folder else {}
    return why


def _found(accelerator: Any, model: nn.Module, loader: Loader, settings: Options) -> tuple[Road | None, str]:
    head = None if settings.mixes else extractor(accelerator, model, loader)
    if head or settings.views:
        return head, ""
    if not (_has_frozen_part(accelerator, model) or settings.cache):
        return None, ""
    why = _irregular(accelerator, loader, settings)
    return (None, why) if why else _upper_road(accelerator, model, loader, settings)


def _has_frozen_part(accelerator: Any, model: nn.Module) -> bool:
    """Whether much of a forward, here on zeros, runs before anything that trains."""
    try:
        images = torch.zeros(2, *pipeline(model)["input_size"], device=accelerator.device, dtype=input_dtype(model))
        with accelerator.autocast():
            points = cuts(model, images)
            return bool(points) and share(model, points[0], images) >= WORTH
    except (*REFUSALS, PetlError):
        return True  # images of another size, perhaps: the real ones will tell


def _irregular(accelerator: Any, loader: Loader, settings: Options) -> str:
    """Why the inputs of the steps are not those of the step's images in the first epoch, or ""."""
    if settings.mixes:
        return "mixup and cutmix mix the images themselves"
    if not isinstance(loader.sampler, Shuffle):
        return "a DataLoader is taken as it is; pass its dataset"
    if accelerator.num_processes > 1:
        return "features are kept by one process only, and several train"
    dataset = dataset_of(loader)
    why = unsteady(dataset)
    if why.startswith("petl can't see") and settings.cache:
        return f"{type(dataset).__name__} gives other images when it is read again" if varies(dataset) else ""
    return f"{why}; cache=True says that they stay the same" if why.startswith("petl can't see") else why


def _upper_road(accelerator: Any, model: nn.Module, loader: Loader, settings: Options) -> tuple[Road | None, str]:
    """The road over the smallest upper part that can be proven."""
    images = pair(sample(loader), model)[0].to(accelerator.device)
    images = torch.cat([images, images.flip(-1)])  # statistics of one image can't be had
    with accelerator.autocast():
        points = cuts(model, images)
        watched, loud = hooked(model), restless(model)
        calm = [point for point in points if (loud | watched).isdisjoint(point.below)]
        net = upper(model, calm, images) if calm else None
        part = share(model, net.cut, images) if net else 0.0
    if part >= WORTH or (net and settings.cache):
        return Road(accelerator, model, net.cut.module, net, per_image=net.per_image), ""  # type: ignore[union-attr]  # part > 0
    if len(calm) < len(points):
        return None, _disquiet(loud.intersection(points[0].below), watched.intersection(points[0].below))
    if net:
        return None, f"only {part:.0%} of a forward lies below {net.cut.name}, where what trains can be cut off"
    return None, "what trains takes more than one tensor from the frozen part" if points else ""


def _disquiet(loud: set[nn.Module], watched: set[nn.Module]) -> str:
    """What speaks against stepping over these modules."""
    kinds = " and ".join(sorted({type(module).__name__ for module in loud or watched}))
    return f"{kinds} in the frozen part {'gives other values in training' if loud else 'has a hook'}"


def _room(found: Road, store: Store, loaders: Loaders, settings: Options) -> str:
    """Why the features can't be kept, or ""."""
    counts = [count_of(loader) or 0 for loader in loaders if loader is not None]
    needed = (counts[0] * (settings.views or 1) + sum(counts[1:])) * found.per_image
    return store.refusal(needed)


def _about(found: Road) -> dict[str, Any]:
    """All that the features depend on but the images, for a folder that outlives the run."""
    own = f"{trained_module(found.model)}."
    cut = found.net.cut if isinstance(found.net, Upper) else None
    needs = cut.needs if cut else lambda name: not name.startswith(own)
    return provenance(found.accelerator, found.model, cut.name if cut else own, needs)


def extractor(accelerator: Any, model: nn.Module, loader: Loader) -> Road | None:
    """The road over the head alone, or None where it can't be trained apart from the model."""
    name = trained_module(model)
    if not name or not isinstance(loader.sampler, Shuffle):
        return None
    head = model.get_submodule(name)
    if all(key.startswith(f"{name}.") for key, _ in model.named_parameters()):
        return None  # a model in an outer module, no head on a frozen part
    found = Road(accelerator, model, head, head)
    images, _ = pair(sample(loader), model)
    return found if found.proven(images.to(accelerator.device)) else None


def trained_module(model: nn.Module) -> str:
    """The name of the smallest module that holds everything that trains; "" is the model itself."""
    paths = [name.split(".")[:-1] for name, p in model.named_parameters() if p.requires_grad]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))  # up to the shortest
    return ".".join(parts[0] for parts in shared)
