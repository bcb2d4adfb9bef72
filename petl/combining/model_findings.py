"""`ModelFindings`: findings that hold the wrapped model which came out."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn

from petl.delta.file import Paths
from petl.delta.save import save
from petl.findings import Findings, json_value
from petl.version import __version__

NOT_IN_JSON = {"json": False}  # metadata of fields that `to_json` leaves out


@dataclass(frozen=True, repr=False)
class ModelFindings(Findings):
    """Findings with ``model``, a wrapped model in evaluation mode; ``to_json`` has everything but the model."""

    model: nn.Module = field(compare=False, metadata=NOT_IN_JSON)

    def to_json(self) -> dict[str, Any]:
        shown = [one.name for one in fields(self) if not NOT_IN_JSON.items() <= one.metadata.items()]
        values = {name: json_value(getattr(self, name)) for name in shown}
        return {"kind": type(self).__name__.lower(), "petl": __version__, **values}

    def save(self, path: Paths, **options: Any) -> Path:
        """Writes the model's delta as `petl.save` does, with its ``options``, and returns the path."""
        return save(self.model, path, **options)
