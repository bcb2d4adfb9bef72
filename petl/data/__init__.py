"""The data of a training: image files, folders, tars and tables, datasets, splits, pipelines, batches and loaders.

Public: `petl.data.dataset`, `petl.data.pipeline` and the other names in ``__all__``.
"""

from petl.data.batches import loader, set_epoch
from petl.data.channel_statistics import statistics
from petl.data.datasets import Images
from petl.data.pipelines import pipeline
from petl.data.samples import sample
from petl.data.sifting import sift
from petl.data.sources import dataset, image
from petl.data.split_folders import has_split, held_out, splits
from petl.data.streams import Stream
from petl.data.validation_split import folds, holdout

__all__ = [
    "Images",
    "Stream",
    "dataset",
    "folds",
    "has_split",
    "held_out",
    "holdout",
    "image",
    "loader",
    "pipeline",
    "sample",
    "set_epoch",
    "sift",
    "splits",
    "statistics",
]
