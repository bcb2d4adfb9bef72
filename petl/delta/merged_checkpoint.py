"""Writes a merged model as a checkpoint that timm loads."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petl.format.atomic_files import open_atomically
from petl.format.tensorfile import write_file

KEPT_KEYS = ("labels", "pipeline", "task", "units", "thresholds", "quantiles", "temperature", "results", "backbone")


def write_merged(path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Writes a merged model's state dict as a checkpoint that timm loads, with the permissions of any new file.

    A ``.safetensors`` file keeps these keys of the delta's header in its metadata, each as JSON: ``labels``, ``pipeline``,
    ``task``, ``units``, ``thresholds``, ``quantiles``, ``temperature``, ``results``, ``backbone``. Any other
    ending is torch's own format, which holds the state dict alone.

    Raises:
        DeltaError: the path can't be written.
    """
    if path.suffix != ".safetensors":
        buffer = io.BytesIO()  # written to memory first: torch raises its own kind of error for a full disk
        torch.save(dict(state), buffer)
        with open_atomically(path) as file:
            file.write(buffer.getbuffer())
        return path
    keys = [key for key in KEPT_KEYS if header.get(key) is not None]
    return write_file(path, state, {"format": "pt", **{key: json.dumps(header[key]) for key in keys}})
