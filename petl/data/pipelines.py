"""The input pipeline of a model: image size, crop, mean and standard deviation, as timm's config says or as you choose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from petl.data.channel_statistics import Statistics
from petl.data.channel_statistics import statistics as statistics_of
from petl.data.reading import READING_KEYS
from petl.data.transforms import PIPELINE_KEYS
from petl.errors import DataError, near
from petl.format.pipeline_values import KNOWN_CROPS, KNOWN_INTERPOLATIONS, reading_fault
from petl.wrapping.lookup import bare, in_chans, record


def pipeline(
    model: nn.Module, *, size: int | tuple[int, int] | None = None, statistics: Any = None, **changes: Any
) -> dict[str, Any]:
    """Returns the input pipeline of a model: input_size (k, H, W), interpolation, mean, std, crop_pct, crop_mode.

    It is what a loaded delta was trained with, else timm's `resolve_model_data_config` at the image size that the model
    was built for (``img_size=``) or ``size``. Mean and std have one value per channel, for images of 0..1 (integers
    are scaled to that): more than three channels keep RGB's for the first three and their average for the others; one
    or two channels take the average.

    Args:
        size: Side of the images, or (height, width).
        statistics: What mean and std are computed from, over all pixels: a folder of training images, one of petl's datasets,
            or what `petl.data.statistics` returned.
        changes: Values of one's own for ``mean`` and ``std`` (a number, or one per channel; `petl.data.statistics` computes
            them from images), ``crop_pct`` (the share of the shorter side that the evaluation crop keeps; 1.0 crops nothing
            off square images), ``crop_mode`` ("center", "squash" or "border") and ``interpolation``. ``window``, ``frame`` and
            ``tiff`` say how files are read: ``window=(centre, width)`` of gray DICOMs ("file", its own, by default; "full" for
            all of its bits), ``frame=`` a number or "middle" of those with several, ``tiff="rasterio"`` for rasterio in place of
            tifffile.

    Raises:
        DataError: A change that can't be.

    To have it in the delta, and used for folders by `petl.fit`: ``petl.record(model).pipeline = pipeline(model, ...)``.

    Example:
        >>> import timm
        >>> pipeline(timm.create_model("test_vit", in_chans=1))["mean"]
        (0.5,)
        >>> pipeline(timm.create_model("test_vit"), crop_pct=1.0, mean=0.4, std=(0.2, 0.2, 0.3))["mean"]
        (0.4, 0.4, 0.4)
    """
    known = record(model)
    inner = bare(model)
    stored = known.pipeline if known is not None else None
    config = {
        key: _tuples(value)
        for key, value in (stored or resolve_model_data_config(inner)).items()
        if key in (*PIPELINE_KEYS, *READING_KEYS)
    }
    built = getattr(getattr(inner, "patch_embed", None), "img_size", None)  # timm's config doesn't know of img_size=
    height, width = _height_and_width((None if stored else built) or config["input_size"][1:] if size is None else size)
    k = in_chans(model)
    channels = {key: _per_channel(config[key], k) for key in ("mean", "std")}
    changed = {**config, **channels, **_checked_changes(changes, k), "input_size": (k, height, width)}
    return changed if statistics is None else {**changed, **_computed(statistics, changed, changes)}


def _computed(source: Any, config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns mean and std of a source of images, read as the pipeline says."""
    if given := [key for key in ("mean", "std") if key in changes]:
        raise DataError(f"got statistics= and {given[0]}=; the statistics are mean and std: pass one of them")
    k = config["input_size"][0]
    values = source if isinstance(source, Statistics) else statistics_of(source, k, pipeline=config)
    return {name: _per_channel_statistic(name, value, k) for name, value in values._asdict().items()}


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def _height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(height, width) < 1:
        raise DataError(f"size={size}; expected at least one pixel")
    return height, width


def _per_channel(values: Sequence[float], k: int) -> tuple[float, ...]:
    if len(values) == k:
        return tuple(values)
    average = sum(values) / len(values)
    return (*(values if k > 3 and len(values) == 3 else ()), *[average] * k)[:k]


def _checked_changes(changes: Mapping[str, Any], k: int) -> dict[str, Any]:
    """Returns the changes after a check."""
    names = [key for key in (*PIPELINE_KEYS, *READING_KEYS) if key != "input_size"]
    for name, value in changes.items():
        if name not in names:
            raise DataError(f"a pipeline has no {name!r}{near(name, names)}; it has size, {', '.join(names)}")
        known = {"crop_mode": KNOWN_CROPS, "interpolation": KNOWN_INTERPOLATIONS}.get(name, ())
        if known and value not in known:
            raise DataError(f"{name}={value!r}; expected one of {', '.join(known)}{near(str(value), known)}")
        if name in READING_KEYS and (expected := reading_fault(name, value)):
            raise DataError(f"{name}={value!r}; expected {expected}")
        if name == "crop_pct":
            _refuse_crop_pct(value)
    return {
        name: _per_channel_statistic(name, value, k) if name in ("mean", "std") else _tuples(value)
        for name, value in changes.items()
    }


def _refuse_crop_pct(value: Any) -> None:
    if not _is_finite_number(value) or not 0 < value <= 1:
        raise DataError(f"crop_pct={value!r}; expected a share of the image above 0, up to 1")


def _is_finite_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float, np.integer, np.floating))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _per_channel_statistic(name: str, value: Any, k: int) -> tuple[float, ...]:
    given = (
        [value] * k
        if _is_finite_number(value)
        else value.tolist()
        if isinstance(value, (np.ndarray, Tensor))
        else value
    )
    values = [float(v) for v in given if _is_finite_number(v)] if isinstance(given, Sequence) else []
    if len(values) != k or len(given) != k or (name == "std" and min(values) <= 0):
        least = " above 0" if name == "std" else ""
        raise DataError(f"{name}={value!r}; expected {k} numbers{least}, one for each channel, or one for all")
    return tuple(values)
