"""`features` computes what a model's classifier takes of each image, once, for all that is arithmetic on features."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from petl.data.inputs import Data, loader_classes
from petl.data.pairs import Keys
from petl.data.replacements import marking_unreadable
from petl.data.samples import refuse_sample
from petl.errors import DataError, PetlError, listing
from petl.extraction.accelerator import private_accelerator, progress_bar
from petl.extraction.classifier_inputs import classifier_modules
from petl.extraction.feature_set import Features
from petl.extraction.feature_tables import FeatureJob, Tables, found_or_computed
from petl.extraction.image_batches import ImageBatches, file_names, image_batches, refuse_keys_of_images
from petl.extraction.kept_features import opened_keep
from petl.extraction.sampled_images import sampled_batches, sampled_features
from petl.extraction.store import GIGA
from petl.extraction.undisturbed import undisturbed
from petl.format.outputs import label_texts
from petl.sites.meta import pretrained_cfg
from petl.wrapping.lookup import bare, record

SIDE = 8  # of the small pictures
UNREADABLE = "it can't be read, or has pixels that are NaN or infinite"


def features(
    model: nn.Module,
    data: Data,
    *,
    blocks: bool = False,
    inputs: bool | int = False,
    head: bool | str | Sequence[str] = True,
    split: str | None = None,
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    labels: Sequence[str] | None = None,
    keys: Keys | str | int | None = None,
    workers: int = 0,
    strict: bool = False,
    precision: Literal["no", "bf16", "fp16"] | None = None,
    cache: bool | str | Path | None = None,
    cache_limit: float = 10.0,
    progress: bool = True,
) -> Features:
    """Computes what the model's classifier takes of each image, ``x`` [N, D], in one pass that is kept for later calls.

    The model runs in evaluation mode, with its delta where it is wrapped. Its modes, flags, hooks and device, and the states of
    random generators, are afterwards as before.

    Args:
        model: Any model of images, wrapped or not. Without a classifier (timm's ``num_classes=0``), its output is ``x``.
        data: What `petl.evaluate` takes: a folder or table (its ``val`` where it has one), a Dataset or a loader, which is read
            in its own order. Also images without labels, whose ``y`` is None: a folder of images alone, a list of files, a table
            of paths, a tensor [N, C, H, W], Datasets and loaders of images.
        blocks: Whether to add the outputs of the model's blocks, each averaged over its positions, in depth order.
        inputs: Whether to add each image as 8 x 8 pixels, or so many as a side, as it was before the normalisation (of images in
            a Dataset of your own: as they are).
        head: The names of the classifier's modules, as for `petl.wrap`; True asks the record or timm, False takes the output.
        split: The part of a folder or table to read, such as "train".
        images: At most so many of the images, as `petl.data.sample` chooses them with this ``seed``: every class in its share. Of
            a loader's or a stream's images, all are computed first. None: all.
        labels: Names of the classes in the order of their numbers; else those in the model's record, if the data's are among
            them; else the data's.
        keys: The names or numbers of images and labels, as for `petl.fit`; a single one for images without labels.
        strict: An error if a file can't be read; without it such files are left out and listed in ``unreadable``.
        precision: Autocast, as for `petl.fit`; what is returned is float32.
        cache: None or True: another call on the same model and images in this process reads what this one computed. A folder:
            also later processes. False: nothing is kept. The weights, the code and the images decide what is the same.
        cache_limit: Gigabytes (10**9 bytes) that may be kept; the oldest go first.

    Equal calls return equal bits. Of other batch sizes, the last bits may differ, as kernels round differently. Under several
    ranks each computes its share of the batches, and all return the same.

    Raises:
        SiteError: petl can't know what the classifier takes. DataError: the data is empty, or doesn't fit the model. PetlError: a
            setting that can't be.

    >>> import petl, timm
    >>> images = torch.utils.data.TensorDataset(torch.randn(6, 3, 64, 64), torch.arange(6) % 2)
    >>> f = petl.features(timm.create_model("test_vit"), images)
    >>> f.x.shape, f.y.tolist()
    (torch.Size([6, 64]), [0, 1, 0, 1, 0, 1])
    """
    plain, side, names = bare(model), _side(inputs), label_texts(labels)
    keys = refuse_keys_of_images(keys)
    _refuse_settings(batch_size, workers, cache, cache_limit)
    if images is not None:
        refuse_sample(images, seed)
    keep = opened_keep(cache, cache_limit * GIGA)
    with (
        marking_unreadable(data),
        private_accelerator(precision) as accelerator,
        undisturbed(plain, data),
        progress_bar(accelerator, progress) as shown,
    ):
        classifier = classifier_modules(plain, head)
        options = {"batch_size": batch_size, "workers": workers, "strict": strict}
        batches = image_batches(data, plain, split=split, classes=names, keys=keys, **options)
        batches = batches if images is None else sampled_batches(batches, images, seed)
        job = FeatureJob(accelerator, plain, classifier, batches, bool(blocks), side, keep, int(batch_size))
        total = len(batches.loader) if hasattr(batches.loader, "__len__") else None
        task = shown.add_task("features", total=total, note="")
        tables = found_or_computed(job, lambda: shown.advance(task, accelerator.num_processes))
        found = _features(plain, batches, tables, names, strict)
    return found if images is None else sampled_features(found, images, seed)


def _side(inputs: Any) -> int:
    if isinstance(inputs, bool):
        return SIDE * inputs
    if not isinstance(inputs, Integral) or not 1 <= int(inputs) <= 1024:
        raise PetlError(f"inputs={inputs!r}; expected True, False, or the pixels of a side, 1 to 1024")
    return int(inputs)


def _refuse_settings(batch_size: Any, workers: Any, cache: Any, cache_limit: Any) -> None:
    """Raises a PetlError for values that these can't have."""
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
            raise PetlError(f"{name}={value!r}; expected a whole number, at least {least}")
    if not isinstance(cache, (bool, str, Path, type(None))) or cache == "":
        raise PetlError(f"cache={cache!r}; expected None, True, False, or the path of a folder")
    number = isinstance(cache_limit, Real) and not isinstance(cache_limit, bool)
    if not number or not 0 < float(cache_limit) < float("inf"):
        raise PetlError(f"cache_limit={cache_limit!r}; expected gigabytes above 0, such as 10")


def _features(
    model: nn.Module, batches: ImageBatches, tables: Tables, names: list[str] | None, strict: bool
) -> Features:
    """Returns the tables without the images that couldn't be read, with the names of files, classes and blocks."""
    files = file_names(batches.loader, tables.count)
    bad = {files[row] if files else f"image {row}": UNREADABLE for row in tables.unreadable}
    if strict and bad:
        raise DataError(f"{listing(bad)}: {UNREADABLE}; mend or remove such images, or leave out strict")
    labels = tables.y if batches.labelled else None
    y, classes = named_targets(labels, names or loader_classes(batches.loader), model, names)
    if files is not None and tables.unreadable:
        without = {*tables.unreadable}
        files = [file for row, file in enumerate(files) if row not in without]
    return Features(
        tables.x,
        y,
        classes,
        tables.blocks,
        tables.inputs,
        files,
        {**batches.left_out, **bad},
        model_name(model),
        tables.cached,
    )


def named_targets(
    y: Tensor | None, found: list[str] | None, model: nn.Module, asked: list[str] | None
) -> tuple[Tensor | None, list[str]]:
    """Returns the targets and the names of their classes; numbered as in the model's record, if the classes are among its."""
    wrapped = record(model)
    known = list((wrapped.labels if wrapped else None) or [])
    if y is None:
        return None, []
    if y.ndim > 1:
        names = found or known
        return y, names if len(names) == y.shape[1] else []
    if y.is_floating_point():
        return y, []
    if found is None:
        count = int(y.max()) + 1
        return y, known if len(known) >= count else [str(number) for number in range(count)]
    if int(y.max()) >= len(found):
        raise DataError(f"label {int(y.max())} for {len(found)} classes ({listing(found)}), numbered from 0")
    if asked is None and {*found} <= {*known}:
        return torch.tensor([known.index(name) for name in found])[y], known
    return y, found


def model_name(model: nn.Module) -> str:
    """Returns a model's name for people: timm's, or that of its class."""
    wrapped, config = record(model), pretrained_cfg(model)
    name = wrapped.backbone.get("name") if wrapped else config.get("architecture") if isinstance(config, dict) else None
    return str(name or getattr(config, "architecture", None) or type(model).__name__)
