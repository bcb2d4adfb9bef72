"""The tables of `petl.features` for one model and dataset: taken from where they are kept, or computed in one pass and kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from petl.data.first_image import one_image
from petl.data.loaders import Loader
from petl.data.wrappers import pipeline_of
from petl.errors import DataError
from petl.extraction.dataset_fingerprint import dataset_fingerprint
from petl.extraction.feature_pass import BatchRows, FeaturePass, Table, exchanged, in_step
from petl.extraction.image_batches import ImageBatches, share_of_batches
from petl.extraction.image_passes import image_count, user_dataset
from petl.extraction.kept_features import (
    NO_LABELS,
    About,
    FolderKeep,
    Keep,
    as_table,
    from_table,
    is_cheap,
    is_known,
    model_about,
)
from petl.extraction.npy_writer import StorageError
from petl.extraction.pooling import pooled_block_modules
from petl.extraction.undisturbed import rng_restored

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureJob:
    """What is to be computed, of which batches, and where it is kept.

    ``classifier`` are the names of its modules, ``side`` the pixels of the small pictures (0 for none).
    """

    accelerator: Any
    model: nn.Module
    classifier: list[str]
    batches: ImageBatches
    blocks: bool
    side: int
    keep: Keep | None
    batch_size: int

    @property
    def pipeline(self) -> dict[str, Any] | None:
        """Returns the pipeline of petl's datasets; None for others."""
        return pipeline_of(self.batches.loader.dataset)

    @property
    def names(self) -> list[str]:
        """Returns the names of the tables that are kept."""
        small = [f"inputs {self.side}"] if self.side else []
        return ["x", "y", *(["blocks", "widths"] if self.blocks else []), *small]


@dataclass
class Tables:
    """The tables of all images that could be read; ``unreadable`` are the numbers of the others among ``count`` images."""

    x: Tensor
    y: Tensor | None
    blocks: dict[str, Tensor] | None
    inputs: Tensor | None
    count: int
    unreadable: list[int] = field(default_factory=list)
    cached: bool = False


def found_or_computed(job: FeatureJob, after: Callable[[], object]) -> Tables:
    """Returns the tables that are kept for this model and these images, or computes and keeps them.

    Raises:
        DataError: there is no image, or none that can be read.
    """
    about = _about(job) if job.keep is not None else None
    kept = _kept(job, about) if about is not None else None
    if kept is not None:
        return kept
    computed, fingerprint = _computed(job, after, fingerprints=about is not None and about["data"] is None)
    if about is not None and not computed.unreadable:  # a file that can't be read now may be readable next time
        _keep(job, {**about, "data": about["data"] or fingerprint}, computed)
    return computed


def _about(job: FeatureJob) -> About:
    """Returns all that the tables depend on; ``data`` is None where the images are only known after a pass.

    Datasets that have to be read for their fingerprint are read only if something is kept for this model.
    """
    size = None if job.batches.own_loader else job.batch_size
    more = {"batch": size, "pipeline": job.pipeline, "labelled": job.batches.labelled}
    about = {**model_about(job.accelerator, job.model, job.classifier, **more), "data": None}
    dataset = user_dataset(job.batches.loader)
    if not job.batches.own_loader and is_cheap(dataset):
        return {**about, "data": dataset_fingerprint(dataset)}
    known = job.keep is not None and is_known(job.keep, {**about, "part": "x"})
    if all(exchanged(job.accelerator, known)):
        reading = FeaturePass(job.accelerator, job.model, [], {}, 0, None, fingerprints=True)
        about["data"] = _combined([rows.fingerprint for rows in _run(job, reading.read)])
    return about


def _run(
    job: FeatureJob, give: Callable[[Any], BatchRows], after: Callable[[], object] = lambda: None
) -> Iterator[BatchRows]:
    """Yields what ``give`` makes of each batch, of all ranks, in the data's order."""
    rank, ranks = job.accelerator.process_index, job.accelerator.num_processes

    def own() -> Iterator[BatchRows]:
        for batch in _batches(job.batches.loader, rank, ranks):
            yield give(batch)
            after()

    with rng_restored(job.batches.loader):
        yield from in_step(job.accelerator, own())


def _batches(loader: Loader, rank: int, ranks: int) -> Iterator[Any]:
    """Yields a rank's batches; where the items can't be put into batches, the error says what they are."""
    try:
        yield from share_of_batches(loader, rank, ranks)
    except (TypeError, ValueError, RuntimeError):
        one_image(loader)  # a DataError that describes the item, if that is why
        raise


def _computed(job: FeatureJob, after: Callable[[], object], *, fingerprints: bool) -> tuple[Tables, str]:
    """Returns the tables after one pass, and the fingerprint of the images."""
    blocks = pooled_block_modules(job.model) if job.blocks else {}
    job.model.to(job.accelerator.device)
    reading = FeaturePass(job.accelerator, job.model, job.classifier, blocks, job.side, job.pipeline, fingerprints)
    tables: dict[str, Table] = {}
    widths: dict[str, int] = {}
    prints, unreadable, count = [], [], 0
    for rows in _run(job, reading.compute, after):
        prints.append(rows.fingerprint)
        widths = rows.widths or widths
        bad = rows.unreadable
        unreadable += (bad.nonzero()[:, 0] + count).tolist()
        count += len(bad)
        for name, part in rows.tables.items():
            tables.setdefault(name, Table(image_count(job.batches.loader))).add(part[~bad] if bad.any() else part)
    if not count:
        raise DataError("the data gave no image to compute features of; a loader has to start anew each time")
    if len(unreadable) == count:
        raise DataError(f"none of the {count} images can be read; the log names each with its reason")
    whole = {name: table.all() for name, table in tables.items()}
    if "y" in whole and len(whole["y"]) != len(whole["x"]):
        raise DataError("some batches have labels and others have none; expected labels for all images, or for none")
    return _as_tables(whole, widths, count, unreadable), _combined(prints)


def _as_tables(whole: dict[str, Tensor], widths: dict[str, int], count: int, unreadable: list[int]) -> Tables:
    blocks = dict(zip(widths, whole["blocks"].split([*widths.values()], 1), strict=True)) if "blocks" in whole else None
    return Tables(whole["x"], whole.get("y"), blocks, whole.get("inputs"), count, unreadable)


def _combined(fingerprints: list[str]) -> str:
    """Returns one fingerprint of all batches in their order."""
    return hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()


def _kept(job: FeatureJob, about: About) -> Tables | None:
    """Returns the tables that are kept, if all of them are, on all ranks."""
    found: dict[str, Tensor] = {}
    for name in job.names if about["data"] is not None and job.keep is not None else ():
        if (table := job.keep.get({**about, "part": name})) is not None:  # type: ignore[union-attr]  # asked in the line above
            found[name] = table
    if not all(exchanged(job.accelerator, len(found) == len(job.names))):
        return None
    whole = {"x": found["x"], **({"blocks": found["blocks"]} if job.blocks else {})}
    if found["y"].dtype != NO_LABELS:
        whole["y"] = found["y"]
    if job.side:
        whole["inputs"] = found[f"inputs {job.side}"]
    tables = _as_tables(whole, from_table(found["widths"]) if job.blocks else {}, len(found["x"]), [])
    tables.cached = True
    return tables


def _keep(job: FeatureJob, about: About, tables: Tables) -> None:
    """Keeps the tables; in a folder, which ranks may share, the main rank's alone."""
    keep = job.keep if job.accelerator.is_main_process or not isinstance(job.keep, FolderKeep) else None
    x, blocks = tables.x, tables.blocks or {}
    parts = {"x": x, "y": torch.zeros(len(x), dtype=NO_LABELS) if tables.y is None else tables.y}
    if job.blocks:
        parts["blocks"] = torch.cat([*blocks.values()], 1)
        parts["widths"] = as_table({name: table.shape[1] for name, table in blocks.items()})
    if tables.inputs is not None:
        parts[f"inputs {job.side}"] = tables.inputs
    try:
        if keep is not None:
            for name, table in parts.items():
                keep.put({**about, "part": name}, table)
    except StorageError as error:
        log.warning("the features aren't kept for later calls: %s", error)
    job.accelerator.wait_for_everyone()
