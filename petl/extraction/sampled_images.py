"""Features of at most so many images: chosen before any is read where that can be, and otherwise after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, Subset

from petl.data.batches import loader as make_loader
from petl.data.grouping import every_target
from petl.data.replacements import MarkedUnreadable
from petl.data.samples import sampled_rows
from petl.data.validation_split import strata_of
from petl.extraction.feature_set import Features
from petl.extraction.image_batches import ImageBatches


def sampled_batches(batches: ImageBatches, images: int, seed: int) -> ImageBatches:
    """Returns batches of at most so many images, chosen before one is read; loaders and streams stay as they are."""
    loader = batches.loader
    if batches.own_loader or not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return batches
    dataset: Any = loader.dataset.dataset if isinstance(loader.dataset, MarkedUnreadable) else loader.dataset
    if len(dataset) <= images:
        return batches
    strata = strata_of(dataset, every_target(dataset)) if batches.labelled else np.zeros(len(dataset))
    part = Subset(dataset, sampled_rows(strata, images, seed).tolist())
    options: Any = {"batch_size": loader.batch_size, "workers": loader.num_workers}
    return replace(batches, loader=make_loader(part, **options))


def sampled_features(features: Features, images: int, seed: int) -> Features:
    """Returns at most so many of the images that features were computed of."""
    if len(features) <= images:
        return features
    strata = np.zeros(len(features)) if features.y is None else strata_of(None, features.y.numpy())
    return features[sampled_rows(strata, images, seed)]
