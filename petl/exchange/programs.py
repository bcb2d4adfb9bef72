"""A model as a program of torch.export, for any number of images, and the bytes of its ``.pt2`` file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from petl.errors import StateError

Content = tuple[bytes, Callable[[Tensor], list[Tensor]]]


def as_program(model: nn.Module, images: Tensor, *, fixed_size: bool) -> Any:
    """Returns the program of the model for batches of any length; raises a StateError where torch can't make one."""
    varying: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if not fixed_size:
        varying |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    kind = type(getattr(model, "model", model)).__name__
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model, (images,), dynamic_shapes=(varying,), strict=False)
    except Exception as error:  # torch raises many kinds
        hint = "" if fixed_size else "; leave out fixed_size=False, which not every model can do"
        raise StateError(
            f"torch.export can't take this {kind}: {_first_line(error)}{hint}; nothing was written"
        ) from error


def program_content(program: Any, names: Sequence[str], texts: Mapping[str, str]) -> Content:
    """Returns the bytes of a ``.pt2`` file, and what runs them."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(texts))
    buffer.seek(0)
    again = torch.export.load(buffer).module()

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [leaf for leaf in tree_leaves(again(images)) if isinstance(leaf, Tensor)]

    return buffer.getvalue(), run


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
