"""What coverage tries: the columns (methods), the depths, and the pairs of architecture and column of each."""

from __future__ import annotations

import fnmatch
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm

import petl
from benchmarks.coverage.index import Architecture
from benchmarks.coverage.sample import SAMPLE

DEPTHS = ("shapes", "real", "every", "graphs")
MOST_PARAMETERS = 100_000_000  # of depth every
CHANNELS = (2, 1, 4, 13)  # what the input adapter takes, in turn over the architectures
CLASSES = 5

# the name of a column -> the method and its options
COLUMNS: dict[str, tuple[str, dict[str, Any]]] = {
    "probe": ("probe", {}),
    "bn": ("bn", {}),
    "norm": ("norm", {}),
    "lora": ("lora", {"rank": 4}),
    "lora-depthwise": ("lora", {"rank": 4, "where": ("linear", "conv", "depthwise")}),
    "lora-qv": ("lora", {"rank": 4, "slices": "qv"}),
    "adapter": ("adapter", {}),
    "input": ("input", {}),
    "bias": ("bias", {}),
    "partial": ("partial", {"last": 2}),
    "full": ("full", {}),
}
COMBINED = ("lora+bn+input", "lora+norm+input", "lora+input")  # the first that the model's norms allow
RIVALS = ("peft-all", "peft-ungrouped")
GRAPHS = ("compile", "export")  # columns of depth graphs


@dataclass(frozen=True)
class Pair:
    """One architecture with one column, at one depth; ``arguments`` go to ``timm.create_model``."""

    depth: str
    architecture: str
    column: str
    arguments: tuple[tuple[str, Any], ...] = ()


def channels(architecture: str) -> int:
    """How many channels the input adapter takes on this architecture: always the same, and all numbers in turn."""
    return CHANNELS[zlib.crc32(architecture.encode()) % len(CHANNELS)]


def methods(column: str, architecture: str) -> tuple[Any, dict[str, Any]]:
    """What ``petl.wrap`` gets for this column: methods and options."""
    k = channels(architecture)
    if column in COMBINED:
        kinds = {"lora": petl.LoRA(rank=4), "bn": petl.BN(), "norm": petl.Norm(), "input": petl.Input(in_chans=k)}
        return [kinds[word] for word in column.split("+")], {}
    name, options = COLUMNS[column]
    return name, {**options, "in_chans": k} if name == "input" else options


def in_chans(column: str, architecture: str) -> int:
    """Channels of the images that the wrapped model takes."""
    return channels(architecture) if "input" in column else 3


def pairs(depth: str, index: Sequence[Architecture], only: str = "*") -> list[Pair]:
    """All pairs of one depth, an architecture's pairs together, small architectures first but for shapes."""
    chosen = [one for one in index if fnmatch.fnmatchcase(one.name, only)]
    if depth == "sample":
        return [pair for pair in sampled() if fnmatch.fnmatchcase(pair.architecture, only)]
    if depth in ("rival", "graphs"):
        known = [(name, args) for name, args in SAMPLE if fnmatch.fnmatchcase(name, only) and timm.is_model(name)]
        sizes = {one.name: one.parameters for one in index}
        known.sort(key=lambda entry: sizes.get(entry[0], 0))
        return [
            Pair(depth, name, col, args) for name, args in known for col in (RIVALS if depth == "rival" else GRAPHS)
        ]
    if depth == "shapes":
        return [Pair(depth, one.name, column) for one in chosen for column in COLUMNS]
    ordered = sorted(chosen, key=lambda one: (one.parameters, one.name))
    if depth == "real":
        first = {one.name for one in smallest_of_each(index)}
        return [Pair(depth, one.name, column) for one in ordered if one.name in first for column in COLUMNS]
    return [Pair(depth, one.name, "combined") for one in ordered if one.parameters <= MOST_PARAMETERS]


def smallest_of_each(index: Sequence[Architecture]) -> list[Architecture]:
    """The smallest architecture of every signature."""
    found: dict[str, Architecture] = {}
    for one in sorted(index, key=lambda one: (one.parameters, one.name)):
        found.setdefault(one.signature, one)
    return list(found.values())


def sampled() -> list[Pair]:
    """The fixed sample: each architecture with two columns, which move on by one from one architecture to the next."""
    names = list(COLUMNS)
    turn = [(names[i % len(names)], names[(i + 4) % len(names)]) for i in range(len(SAMPLE))]
    known = [
        (entry, columns) for entry, columns in zip(SAMPLE, turn, strict=True) if timm.is_model(entry[0])
    ]  # older timm
    return [Pair("sample", name, column, args) for (name, args), columns in known for column in columns]
