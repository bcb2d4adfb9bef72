"""The settings of a training that decide whether features are used."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class FeatureOptions(Protocol):
    """What feature extraction reads of the settings (`FeatureSettings` in training has it); ``limit`` is in bytes."""

    @property
    def views(self) -> int | None: ...

    @property
    def cache(self) -> bool | str | Path | None: ...

    @property
    def mixes(self) -> bool: ...

    @property
    def needs_images(self) -> str: ...

    @property
    def limit(self) -> float: ...
