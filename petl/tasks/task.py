"""One task: a name, and a model that shares the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from petl.prediction.meaning import HEADER_KEYS
from petl.wrapping.lookup import require_record
from petl.wrapping.record import Record


@dataclass(frozen=True, eq=False)
class Task:
    """A name, the model with this delta on it, and what it changes in the backbone, by the shapes of images."""

    name: str
    model: nn.Module
    changes: dict[tuple[int, ...], Any] = field(default_factory=dict)

    @property
    def record(self) -> Record:
        return require_record(self.model)[1]

    @property
    def description(self) -> Mapping[str, Any]:
        """What is known of the outputs, with the keys of a delta's header."""
        record = self.record
        return {key: getattr(record, key) for key in HEADER_KEYS}
