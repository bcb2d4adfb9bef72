"""Chooses the fast path of a layer: the subclass whose forward trains the layer with less memory and time.

``FAST_PATH_TABLE`` holds every choice that depends on the layer alone, and ``fast_path_for`` reads it. ``modes`` applies the
choices; the choices that depend on the whole model (blocks that run twice, scopes) are made there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from petl.graft.classes import base_class, fast_paths, is_held_in_eval
from petl.graft.kinds import FastPath
from petl.memory.base_dtype import is_stored_low
from petl.memory.fused_layers import FrozenNorm, FusedConv, FusedLinear
from petl.memory.layer_kinds import is_plain_conv, is_plain_mlp, is_plain_norm, is_recomputable
from petl.memory.mlp import ChunkedMlp
from petl.memory.recomputed_layers import IndexMaxPool, MaskedReLU, Recomputed, SharedReLU
from petl.memory.weight_changes import low_rank_change

EVERY_MODE = ("fast", "lean", "min")
RECOMPUTING_MODES = ("lean", "min")


class FastPathRow(NamedTuple):
    """A fast path, the values of ``memory=`` that use it, and the layers that it fits.

    ``output_is_kept`` is True or False where the fast path fits only layers whose output another layer keeps, or keeps not.
    """

    fast_path: type[FastPath]
    modes: tuple[str, ...]
    fits: Callable[[nn.Module], bool]
    output_is_kept: bool | None = None


def fast_path_for(module: nn.Module, *, mode: str, output_is_kept: bool = False) -> type[FastPath] | None:
    """Returns the fast path that ``memory=mode`` gives a layer, or None if its plain forward stays. Changes nothing.

    Args:
        module: a module of an adapted model: its methods' changes are on it already.
        mode: ``"fast"``, ``"lean"`` or ``"min"``.
        output_is_kept: whether every layer that receives the module's output keeps that output for its own backward.
    """
    for row in FAST_PATH_TABLE:
        if mode in row.modes and row.output_is_kept in (None, output_is_kept) and row.fits(module):
            return row.fast_path
    return None


def fast_path_of(module: nn.Module) -> type[FastPath] | None:
    """Returns the fast path of the table that the module has now, or None."""
    present = fast_paths(module)
    return next((row.fast_path for row in FAST_PATH_TABLE if row.fast_path in present), None)


def _is_changed_linear(module: nn.Module) -> bool:
    """Returns whether the module is a linear layer with a low-rank change, or one whose weight is stored in low precision."""
    return base_class(module) is nn.Linear and (low_rank_change(module) is not None or is_stored_low(module))


def _is_frozen_norm(module: nn.Module) -> bool:
    return is_plain_norm(module) and is_held_in_eval(module)


def _is_relu(module: nn.Module) -> bool:
    return base_class(module) in (nn.ReLU, nn.ReLU6)


def _is_max_pool(module: nn.Module) -> bool:
    return base_class(module) is nn.MaxPool2d


FAST_PATH_TABLE = (  # the first row that fits decides
    FastPathRow(FusedLinear, EVERY_MODE, _is_changed_linear),
    FastPathRow(FusedConv, EVERY_MODE, is_plain_conv),
    FastPathRow(FrozenNorm, EVERY_MODE, _is_frozen_norm),
    FastPathRow(SharedReLU, RECOMPUTING_MODES, _is_relu, output_is_kept=True),
    FastPathRow(MaskedReLU, RECOMPUTING_MODES, _is_relu, output_is_kept=False),
    FastPathRow(IndexMaxPool, RECOMPUTING_MODES, _is_max_pool),
    FastPathRow(ChunkedMlp, RECOMPUTING_MODES, is_plain_mlp),
    FastPathRow(Recomputed, RECOMPUTING_MODES, is_recomputable),
)
