"""A candidate in the contest: its features so far, what it costs, and how it was read at each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from petl.data.pipelines import pipeline as pipeline_for
from petl.errors import DataError, PetlError, StateError
from petl.evidence.reading import ClassReading, read_classes
from petl.extraction.feature_set import Features
from petl.extraction.features import features
from petl.extraction.single_answers import refuse_maps
from petl.ranking.candidates import Candidate
from petl.ranking.limits import Limits
from petl.ranking.price import Price, price
from petl.ranking.ranked_images import RankedPart
from petl.sites.meta import pretrained_cfg
from petl.wrapping.licences import known_licence
from petl.wrapping.lookup import bare

FEWEST_READ = 0.5  # share of the images that a candidate must be able to read


@dataclass(frozen=True)
class Options:
    """How candidates are read: ``size`` of the images, ``changes`` of every pipeline, and options of `petl.features`.

    ``head`` are the names of the classifier's modules in candidates that were given as models.
    """

    size: int | None
    changes: Mapping[str, Any]
    head: Any
    device: torch.device
    limits: Limits
    reading: Mapping[str, Any]


@dataclass
class Contender:
    """A candidate, with its features ``x`` [n, D] of the images ``rows`` [n] so far."""

    candidate: Candidate
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    x: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    price: Price | None = None
    pipeline: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    reading: ClassReading | None = None
    tested: list[tuple[int, float]] = field(default_factory=list)  # images and score of each step
    dropped_at: int | None = None
    why: str = ""

    @property
    def name(self) -> str:
        return self.candidate.name

    def look_at(self, part: RankedPart, rows: np.ndarray, options: Options) -> None:
        """Adds the features of these images.

        Raises:
            PetlError: the candidate can't be had, or can't read them; or it costs too much, as only shows now.
        """
        found, kept = self.features_of(part, rows, options)
        order = np.argsort(np.concatenate([self.rows, kept]), kind="stable")
        self.rows = np.concatenate([self.rows, kept])[order]
        self.x = torch.cat([self.x, found.x] if len(self.x) else [found.x])[torch.from_numpy(order)]

    def features_of(self, part: RankedPart, rows: np.ndarray, options: Options) -> tuple[Features, np.ndarray]:
        """Returns the features of images, and the numbers of those that could be read."""
        model = self.candidate.build(options.size or self.candidate.side)
        self.pipeline = self.pipeline or _pipeline(model, self.candidate, options)
        head = options.head if isinstance(self.candidate.source, nn.Module) else True
        if self.price is None:
            refuse_maps("rank", model, head, self.pipeline)
            self._note_price(model, options)
        images = part.read_with(self.pipeline, rows)
        try:
            found = features(model, images, head=head, progress=False, **options.reading)
        except DataError:
            images[0]  # of channels that don't fit, the image itself says more
            raise
        if len(found) < FEWEST_READ * len(rows):
            raise DataError(
                f"{len(rows) - len(found)} of {len(rows)} images can't be read for it: {_first_reason(found)}"
            )
        return found, _rows_read(found, part, rows)

    def _note_price(self, model: nn.Module, options: Options) -> None:
        plain = bare(model)
        self.licence = self.candidate.licence or (None if _has_file(self.candidate) else _licence(plain))
        self.price = price(plain, self.pipeline, options.device)
        why = options.limits.excess(self.price.params, self.price.gmacs, self.pipeline["input_size"][-1])
        if why := why or options.limits.forbids(self.licence):
            raise StateError(why)

    def restrict(self, rows: np.ndarray) -> None:
        """Leaves out the images that aren't among ``rows``: another candidate couldn't read them."""
        kept = np.isin(self.rows, rows)
        if not kept.all():
            self.rows, self.x = self.rows[kept], self.x[torch.from_numpy(kept)]

    def read(self, y: Tensor, classes: int) -> ClassReading:
        """Reads the classes ``y`` of all images so far from the features."""
        if not bool(torch.isfinite(self.x).all()):
            raise PetlError(f"the features of {self.name} are not finite (nan or inf)")
        self.reading = read_classes(self.x, y[torch.from_numpy(self.rows)], classes)
        return self.reading


def _pipeline(model: nn.Module, candidate: Candidate, options: Options) -> dict[str, Any]:
    """Returns a model's own pipeline, at another size where that was asked for and the model isn't built for one size."""
    fixed = bool(_value(pretrained_cfg(bare(model)), "fixed_input_size"))
    return pipeline_for(model, size=None if fixed else options.size or candidate.side, **options.changes)


def _value(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def _licence(model: nn.Module) -> str | None:
    return known_licence(_value(pretrained_cfg(model), "license"))


def _has_file(candidate: Candidate) -> bool:
    return isinstance(candidate.source, str) and ":" in candidate.source and not candidate.source.startswith("hf")


def _first_reason(found: Features) -> str:
    return next(iter(found.unreadable.values()), "its number of channels doesn't fit")


def _rows_read(found: Features, part: RankedPart, rows: np.ndarray) -> np.ndarray:
    """Returns the numbers of the images that have features."""
    if len(found) == len(rows):
        return rows
    names = [*map(str, _names(part, rows))]
    kept = np.array(
        [f"image {at}" not in found.unreadable and name not in found.unreadable for at, name in enumerate(names)]
    )
    if int(kept.sum()) != len(found):
        raise DataError(
            f"{len(rows) - len(found)} images can't be read, and which isn't known; remove them from the data"
        )
    return rows[kept]


def _names(part: RankedPart, rows: np.ndarray) -> list[str]:
    from petl.data.wrappers import locate

    found = [locate(part.dataset, int(row)) for row in rows]
    return [images.filename(number) if hasattr(images, "filename") else "" for images, number in found]
