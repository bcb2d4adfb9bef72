"""Reads geographic rasters by rasterio (GDAL): what tifffile can't read, or where rasterio is asked for."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from petl.data.bands import Bands
from petl.data.reading import Unreadable
from petl.errors import DataError


def read_raster(data: bytes) -> Bands:
    """Returns the bands of a raster, with its palette applied and its masks and no-data values marked.

    Raises:
        DataError: rasterio isn't installed, or the file holds several rasters. Others are rasterio's.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError as error:
        raise DataError("rasterio is not installed: pip install 'petl-vision[geo]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.MemoryFile(data) as memory, memory.open() as source:
            if not source.count or len(source.subdatasets) > 1:
                raise DataError(f"it holds {len(source.subdatasets)} rasters; expected one")
            if source.photometric is not None and "lab" in source.photometric.name and source.dtypes[0] != "uint8":
                raise Unreadable("its colours are Lab; save it as RGB")
            return _bands_by_rasterio(source)


def _bands_by_rasterio(source: Any) -> Bands:
    array, absent = source.read(), source.read_masks() == 0
    flags = [flag.name for band in source.mask_flag_enums for flag in band]
    meanings = [meaning.name for meaning in source.colorinterp]
    if "alpha" in flags or not absent.any():  # transparency is a band of its own
        absent = None
    if meanings[0] == "palette" and source.count == 1:
        colours = np.zeros((int(array.max()) + 1, 3), np.uint8)
        for number, colour in source.colormap(1).items():
            if number < len(colours):
                colours[number] = colour[:3]
        if (colours == colours[:, :1]).all():  # as GDAL shows gray images whose zero is white
            colours = colours[:, :1]
        array = np.moveaxis(colours[array[0]], -1, 0)
        return Bands(array, absent=None if absent is None else np.broadcast_to(absent, array.shape))
    bits = int(source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 0)) if array.dtype.kind in "iu" else 0
    bits = bits or None
    if source.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES" and array.dtype.kind == "u":
        array = (2**bits - 1 if bits else np.iinfo(array.dtype).max) - array
    return Bands(array, bits, alpha=meanings[-1] == "alpha", absent=absent)
