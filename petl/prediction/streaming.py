"""Streams the answers of a model for images of any kind, in their order; the model is as before afterwards."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, MappingView
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from petl.data.datasets import Images
from petl.data.pipelines import pipeline
from petl.data.replacements import marking_unreadable
from petl.data.table_files import is_frame
from petl.data.views import Views, averaged_task, make_views
from petl.data.wrappers import petl_datasets
from petl.errors import ITEM, DataError, StateError, shortened
from petl.extraction.accelerator import private_accelerator, progress_bar, restored_afterwards
from petl.graft.sharded import is_sharded_model
from petl.prediction.image_lists import EXPECTED, ImageList, is_image, is_path, list_images, table_list
from petl.prediction.loader_batches import as_they_come, is_sequential, share_of_loader
from petl.prediction.meaning import Meaning
from petl.prediction.passes import Block, Pass, refuse_different_lists
from petl.prediction.reading import ReadBatch, ReadDataset, ReadImages, batches_in_order, image_in, rank_ranges
from petl.training.run_settings import DATA_BOUNDS
from petl.training.setting_checks import INFINITY, Bounds, refuse_numbers
from petl.wrapping.eval_mode import in_eval
from petl.wrapping.lookup import bare

log = logging.getLogger(__name__)
TOP = Bounds(Integral, 1, INFINITY, "at least 1, or None", optional=True)


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """How images are read and answered."""

    batch_size: int = 32
    workers: int = 0
    top: int | None = None
    strict: bool = False
    precision: str | None = None
    progress: bool = True
    pipeline: Mapping[str, Any] | None = None
    views: Views = None

    def __post_init__(self) -> None:
        make_views(self.views)
        refuse_numbers(self, {**DATA_BOUNDS, "top": TOP})
        if self.pipeline is not None and not (isinstance(self.pipeline, Mapping) and "input_size" in self.pipeline):
            raise DataError(
                f"pipeline={shortened(repr(self.pipeline), ITEM)}; expected what petl.data.pipeline(model) returns"
            )


@dataclass
class Batches:
    """One rank's batches, and the number of all ranks' images, where it is known."""

    batches: Iterable[ReadBatch]
    images: int | None = None


def stream(
    model: nn.Module, images: Any, description: Mapping[str, Any], settings: PassSettings
) -> Generator[tuple[Meaning | None, Block], None, None]:
    """Yields the answers of each batch in the order of the images, with what they mean; None before the first readable image.

    Raises:
        PetlError: the images, the model or its outputs are of no use.
    """
    if len(make_views(settings.views)) > 1:
        averaged_task(description.get("task") or "classification")
    source = find_images(images)
    if settings.strict and isinstance(source, ImageList):
        source.refuse_bad_files()
    plain = bare(model)
    with (
        marking_unreadable(source),
        private_accelerator(settings.precision) as accelerator,
        restored_afterwards(plain),
        progress_bar(accelerator, settings.progress) as shown,
        in_eval(model),
    ):
        plain.to(accelerator.device)
        if several := accelerator.num_processes > 1:
            refuse_sharded(plain)
        own = open_batches(source, plain, settings, accelerator)
        work = Pass(accelerator, plain if several else model, description, strict=settings.strict, views=settings.views)
        bar = shown.add_task("predict", total=own.images, note="")
        for block in work.blocks(own.batches):
            shown.advance(bar, block.seen)
            yield work.meaning, block


def find_images(images: Any, options: Mapping[str, Any] | None = None) -> Any:
    """Returns the images as a list, or as the Dataset, loader or iterable that they are.

    Raises:
        DataError: they are none of these, or none is there.
    """
    if isinstance(images, (DataLoader, IterableDataset, ImageList)):
        return images
    if isinstance(images, Iterator) and not is_image(images):  # an open file is read as a whole
        first = list(itertools.islice(images, 1))
        rest = itertools.chain(first, images)
        return list_images(list(rest)) if first and is_path(first[0]) else Once(rest)
    return _find_whole(images, options)


class Once:
    """An iterator of images, begun already."""

    def __init__(self, images: Iterator[Any]):
        self.images = images

    def __iter__(self) -> Iterator[Any]:
        return self.images


def _find_whole(images: Any, options: Mapping[str, Any] | None) -> Any:
    """Returns the same for what isn't read once only."""
    if is_frame(images):
        return table_list(images)
    if getattr(images, "ndim", None) == 1 and hasattr(images, "tolist"):  # a column of pandas, or an array of paths
        return list_images(images.tolist())
    if isinstance(images, (list, tuple, MappingView)):
        images = list(images)  # type: ignore[arg-type]  # also keys or values of a dict, in their order
        whole = not images or is_path(images[0]) or is_image(images[0])
        return list_images(images) if whole else images
    known = is_path(images) or is_image(images) or isinstance(images, (Mapping, set, frozenset))
    if known or isinstance(images, (Tensor, np.ndarray)):
        return list_images(images, options)
    if not (hasattr(images, "__getitem__") or hasattr(images, "__iter__")) or isinstance(images, (type, nn.Module)):
        raise DataError(f"got {type(images).__name__}; {EXPECTED}")
    return images


def open_batches(source: Any, model: nn.Module, settings: PassSettings, accelerator: Any) -> Batches:
    """Returns this rank's batches of a source that `find_images` has returned.

    Raises:
        DataError: it is empty, or can't be shared by several ranks.
    """
    rank, ranks = accelerator.process_index, accelerator.num_processes
    read = LazyPipeline(settings.pipeline, model)
    if is_sequential(source):
        return Batches(share_of_loader(source, rank, ranks), len(source.dataset))
    if isinstance(source, ImageList) or _is_indexed(source):
        return _indexed_batches(source, read, settings, accelerator)
    if ranks > 1:
        name = "an iterator" if isinstance(source, Once) else type(source).__name__
        raise DataError(
            f"{name} is read only as it comes, which several processes can't share in order; pass a folder or a Dataset, or run "
            "one process"
        )
    return Batches(as_they_come(source, read))


def _indexed_batches(source: Any, read: LazyPipeline, settings: PassSettings, accelerator: Any) -> Batches:
    rank, ranks = accelerator.process_index, accelerator.num_processes
    listed = isinstance(source, ImageList)
    dataset = ReadImages(source, read) if listed else ReadDataset(source, read)
    if any(isinstance(own, Images) and own.random for own in petl_datasets(source)):
        log.warning("these images are augmented at random, as for training; make the dataset with training=False")
    if not len(dataset):
        raise DataError("the dataset is empty; expected at least one image")
    refuse_different_lists(accelerator, source.checksum if listed else 0, len(dataset))
    ranges = rank_ranges(len(dataset), settings.batch_size, rank, ranks)
    return Batches(batches_in_order(dataset, ranges, settings.workers), len(dataset))


class LazyPipeline:
    """The pipeline to read images with: the chosen one, or the model's, which is looked up when an image needs it."""

    def __init__(self, chosen: Mapping[str, Any] | None, model: nn.Module | None):
        self.chosen, self.model = chosen, model

    def __call__(self) -> Mapping[str, Any]:
        if self.chosen is None and self.model is not None:
            self.chosen = pipeline(self.model)
        return self.chosen or {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Gives worker processes that start afresh the pipeline, and no model."""
        return LazyPipeline, (self(), None)


def _is_indexed(source: Any) -> bool:
    """Returns whether images are read by number, one at a time. torch's streams only inherit ``__getitem__``."""
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")) or isinstance(source, IterableDataset):
        return False
    if not isinstance(source, (list, tuple)):
        return True
    return getattr(image_in(source[0]), "ndim", 0) != 4  # a list of batches is a loader


def refuse_sharded(model: nn.Module) -> None:
    """Raises a StateError for a model that ranks hold in parts: each rank would have to run as often as the others."""
    if is_sharded_model(model):
        raise StateError("predict runs whole models, and ranks hold parts of this one; load its delta in each process")
