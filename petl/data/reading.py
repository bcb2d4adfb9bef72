"""How files with more than one picture in them are read: the window and frame of a DICOM, the library for a TIFF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from petl.errors import DataError

READING_KEYS = ("window", "frame", "tiff")  # of a pipeline


class Unreadable(DataError):
    """An error: the file is damaged, empty, or in no format that petl reads."""


@dataclass(frozen=True)
class Reading:
    """The choices that a file itself leaves open.

    window: of a gray DICOM, "file" for its own (its look-up table, else its first window, else all of its bits), "full" for all
    of its bits, or (centre, width) in the unit of the file, such as Hounsfield. frame: which frame of a DICOM with several, a
    number (-1 is the last one) or "middle". tiff: the library that reads a TIFF, "tifffile" or "rasterio"; None takes what reads
    it whole.
    """

    window: Literal["file", "full"] | tuple[float, float] = "file"
    frame: int | Literal["middle"] | None = None
    tiff: Literal["tifffile", "rasterio"] | None = None

    @classmethod
    def of(cls, pipeline: Mapping[str, Any]) -> Reading:
        """Returns the choices in an input pipeline."""
        values: dict[str, Any] = {key: pipeline[key] for key in READING_KEYS if key in pipeline}
        if isinstance(values.get("window"), list):  # JSON has no tuples
            values["window"] = tuple(values["window"])
        return cls(**values)


AS_THE_FILE_SAYS = Reading()
