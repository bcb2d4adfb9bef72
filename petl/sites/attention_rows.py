"""Attention projections: which layers compute q, k and v, and which rows of a fused one are which.

Names say what a layer computes (``qkv``, ``kv``, ``to_q``, ``query.proj``); the model's own forward shows how the rows of a
fused one are laid out, which differs by family: ``[q | k | v]``, the same for each head in turn, or values of another width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from petl.sites.meta import blank_images, on_meta
from petl.sites.survey import Survey

Rows = tuple[tuple[str, int], ...]

PROJECTION_WORDS = {"query": "q", "key": "k", "value": "v", "in": "mqkv"}  # in_proj: with the MLP's rows before them
VIEW_OPS = (  # operations that move elements, or leave some out, and change no values
    *(
        "view",
        "_unsafe_view",
        "reshape",
        "permute",
        "transpose",
        "t",
        "squeeze",
        "unsqueeze",
        "expand",
        "alias",
        "detach",
    ),
    *("unbind", "split", "split_with_sizes", "select", "slice", "unfold", "as_strided"),
    *("clone", "_to_copy", "roll", "cat", "constant_pad_nd", "reflection_pad2d", "im2col"),
)


def projection_letters(name: str) -> str:
    """Returns what the layer of this name computes, as letters: q, k, v, and m for the MLP's rows; "" where the name doesn't say.

    >>> [projection_letters(name) for name in ("blocks.0.attn.qkv", "blocks.0.attn.k_proj", "stages.1.attn.query.proj", "head")]
    ['qkv', 'k', 'q', '']
    """
    for part in name.split(".")[-3:]:
        word = part.removeprefix("to_").removesuffix("_proj")
        word = PROJECTION_WORDS.get(word, word.removeprefix("w").removesuffix("s"))
        if word in ("mqkv", "qkv", "kv", "qk", "q", "k", "v"):
            return word
    return ""


def fused_rows(survey: Survey, names: Collection[str]) -> dict[str, Rows]:
    """Returns the rows of each of these fused projections in order, as ``(("q", 64), ("k", 64), ("v", 64))``.

    They are the rows of the whole layer, or of each head in turn. A projection is missing where the forward doesn't split its
    output into as many pieces as its name has letters.
    """
    clone = on_meta(survey.model)
    counts = {name: clone.get_parameter(f"{name}.weight").shape[0] for name in names}
    tracker = _RowTracker({id(clone.get_parameter(f"{name}.weight")): name for name in names}, counts)
    with contextlib.suppress(Exception), torch.no_grad(), torch.device("meta"), tracker:  # any model code may run here
        clone(blank_images(clone, survey.image))
    layouts = {name: _layout(projection_letters(name), counts[name], tracker.pieces[name]) for name in names}
    return {name: rows for name, rows in layouts.items() if rows}


def _layout(letters: str, count: int, pieces: list[frozenset[int]]) -> Rows:
    """Returns the runs of letters in the first head's rows; empty where the pieces aren't a regular partition of all rows."""
    letters = "kv" if letters == "qkv" and len(pieces) == 2 else letters  # queries from elsewhere
    if len(pieces) != len(letters) or sum(map(len, pieces)) != count or len(frozenset().union(*pieces)) != count:
        return ()
    whose = {row: letter for letter, rows in zip(letters, sorted(pieces, key=min), strict=True) for row in rows}
    line = "".join(whose[row] for row in sorted(whose))
    for heads in sorted((h for h in range(1, count + 1) if count % h == 0), reverse=True):
        one = line[: count // heads]
        if one * heads == line and one == "".join(letter * one.count(letter) for letter in letters):
            return tuple((letter, one.count(letter)) for letter in letters)
    return ()


class _RowTracker(TorchDispatchMode):
    """Follows each element of a layer's output by the number of its row, from 1 (0: no element of it), through a forward.

    ``pieces`` are the sets of rows that the model selects from the whole output.
    """

    def __init__(self, weights: dict[int, str], counts: dict[str, int]):
        super().__init__()
        self.weights, self.counts = weights, counts
        self.pieces: dict[str, list[frozenset[int]]] = {name: [] for name in counts}
        self.followed: Any = (
            WeakTensorKeyDictionary()
        )  # tensor -> weight's name, each element's row, whether all are there
        self.weight_views: Any = WeakTensorKeyDictionary()  # views of a weight -> its name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        name, sources = func.overloadpacket.__name__, [t for t in tensors if t in self.followed]
        owner = next((n for t in tensors if (n := self.weights.get(id(t)) or self.weight_views.get(t))), None)
        if owner and name in VIEW_OPS:
            self.weight_views[results[0]] = owner
        elif owner:
            self._begin(owner, results[0], 1 if "conv" in name else -1)
        elif sources and name in VIEW_OPS:
            self._move(func, args, kwargs or {}, sources[0], results)
        elif sources and results and results[0].shape == sources[0].shape:
            self.followed[results[0]] = self.followed[sources[0]]  # a norm, a factor, a bias
        return out

    def _begin(self, owner: str, output: Tensor, axis: int) -> None:
        """Numbers the rows of a layer's output, which lie along ``axis``."""
        shape = [1] * output.ndim
        shape[axis] = -1
        numbers = torch.arange(1, output.shape[axis] + 1, device="cpu", dtype=torch.int32)
        self.followed[output] = owner, numbers.view(shape).expand(output.shape), True

    def _move(self, func: Any, args: Any, kwargs: Any, source: Tensor, results: list[Tensor]) -> None:
        """Does the same to the numbers; where that leaves rows out of a whole output, notes the piece."""
        owner, numbers, whole = self.followed[source]
        pieces = self.pieces[owner]
        if sum(map(len, pieces)) >= self.counts[owner]:
            return  # it is split already

        def number(t: Any) -> Any:
            if not isinstance(t, Tensor):
                return t
            return self.followed[t][1] if t in self.followed else torch.zeros(t.shape, dtype=torch.int32, device="cpu")

        kwargs = {k: v for k, v in kwargs.items() if k not in ("dtype", "device", "layout", "pin_memory")}
        moved = tree_leaves(func(*tree_map(number, args), **kwargs))
        for result, there in zip(results, moved, strict=True):
            rows = _rows(there, self.counts[owner]) if whole and there.numel() < numbers.numel() else frozenset()
            if 0 < len(rows) < self.counts[owner] and rows not in pieces:
                pieces.append(rows)
            self.followed[result] = owner, there, whole and len(rows) in (0, self.counts[owner])


def _rows(numbers: Tensor, count: int) -> frozenset[int]:
    """Returns the rows whose elements are among these."""
    once = numbers[tuple(slice(0, 1) if step == 0 else slice(None) for step in numbers.stride())]
    there = torch.zeros(count + 1, dtype=torch.bool, device="cpu")
    there[once.flatten().long()] = True
    return frozenset(there.nonzero().flatten().tolist()) - {0}
