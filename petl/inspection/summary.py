"""What a wrapped model holds, method by method."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from petl.delta.fitting import delta_tensors
from petl.errors import printable
from petl.graft.kinds import grafts
from petl.memory.modes import steps
from petl.tables import html_table, table
from petl.wrapping.fingerprints import own_tensor, owned
from petl.wrapping.record import Record, wrapped
from petl.wrapping.wrap import trainable, unfoldable

WORDS = (
    (
        r"^plain: \w+ is not one low-rank change$",
        "plain: the change is more than a low-rank one, and needs the whole weight's gradient",
    ),
    (r"^plain: \w+ on (\w+), which no kernel knows$", r"plain: there is no cheaper way for \1"),
)


@dataclass(frozen=True)
class Row:
    """One method, or the head: sites, tensors, numbers that train, their share of the base, bytes in the delta, and
    whether ``merge`` can fold it."""

    name: str
    sites: int
    tensors: int
    trainable: int
    share: float
    bytes: int
    foldable: bool


@dataclass(frozen=True)
class Base:
    """The base's parameters: bytes by type, as they are. ``matrices`` says of each matrix and kernel of a model with
    ``base_dtype`` which type it has, and of those that are as they were why; ``originals`` are the bytes in main memory."""

    bytes: dict[str, int]
    matrices: dict[str, str]
    originals: int

    def __repr__(self) -> str:
        parts = ", ".join(f"{_size(size)} {kind}" for kind, size in self.bytes.items())
        left = Counter(why for why in self.matrices.values() if why not in self.bytes).most_common()
        why = "".join(f"; {count} matri{'ces' if count > 1 else 'x'} left: {word}" for word, count in left)
        return f"base: {parts}{why}; the originals in main memory: {_size(self.originals)}"


class Summary(tuple[Row, ...]):
    """Rows per method, then the head; prints as a table with a total. ``trainable`` and ``bytes`` are the totals.

    ``steps`` says of each layer in which way training steps run it, and of plain ones why; ``base`` what the base takes.
    """

    def __init__(self, rows: Sequence[Row], steps: dict[str, str] | None = None, base: Base | None = None):
        self.steps, self.base = steps or {}, base or Base({}, {}, 0)

    def __new__(cls, rows: Sequence[Row], steps: dict[str, str] | None = None, base: Base | None = None) -> Summary:
        return super().__new__(cls, rows)

    @property
    def trainable(self) -> int:
        return sum(row.trainable for row in self)

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self)

    def __repr__(self) -> str:
        return "\n".join([table(self._rows(), left=(0, 6)), *self._notes()])

    def _repr_html_(self) -> str:
        return html_table(self._rows(), self._notes(), left=(0, 6))

    def _rows(self) -> list[tuple[str, ...]]:
        head = ("method", "sites", "tensors", "trainable", "of the base", "delta", "folds")
        return [head, *(_cells(row) for row in (*self, self._total()))]

    def _notes(self) -> list[str]:
        ways = Counter(_in_plain_words(way) for way in self.steps.values()).most_common()
        lines = [printable(f"{count} layer{'s' * (count > 1)} {way}") for way, count in ways]
        return [*lines, *([printable(repr(self.base))] if self.base.matrices else [])]

    def _total(self) -> Row:
        share = sum(row.share for row in self)
        return Row(
            "total", 0, sum(r.tensors for r in self), self.trainable, share, self.bytes, all(r.foldable for r in self)
        )


def summary(model: nn.Module) -> Summary:
    """What ``wrap`` put onto the model: per method its sites, tensors, trainable numbers, bytes, and whether it folds.

    A tensor that two methods train is counted for the first.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=10)
    >>> [row.name for row in petl.summary(model)]
    ['lora', 'head']
    """
    plain, made = wrapped(model)
    mine, also = delta_tensors(plain, made)
    training = trainable(plain)
    base = _base_parameters(plain)
    numbers_of_base = sum(p.numel() for p in base)
    parts = [(m.name, len(sites), keys) for m, sites, keys in zip(made.methods, made.sites, made.tensors, strict=True)]
    parts += [("head", len(made.head), made.head_tensors)] if made.head else []
    parts += [("by hand", 0, also)] if also else []
    stuck = unfoldable(plain)
    rows = []
    for name, sites, keys in parts:
        tensors = {key: mine.pop(key) for key in keys if key in mine}
        numbers = sum(tensors[key].numel() for key in tensors if key in training)  # running statistics don't train
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        folds = not any(key.startswith(f"{graft}.") for key in tensors for graft in stuck)
        rows.append(Row(name, sites, len(tensors), numbers, numbers / numbers_of_base, size, folds))
    return Summary(rows, steps(plain, made.memory), _base(base, made))


def _in_plain_words(way: str) -> str:
    """A way of ``steps`` without the names of classes inside petl."""
    for inside, words in WORDS:
        way = re.sub(inside, words, way)
    return way


def _base_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the base: all but those that grafts brought."""
    inside = {id(p) for module in model.modules() for _, graft in grafts(module) for p in graft.parameters()}
    tensors = [own_tensor(owner, leaf) for _, owner, leaf in owned(model)]
    return [t for t in tensors if isinstance(t, nn.Parameter) and id(t) not in inside]


def _base(parameters: Sequence[nn.Parameter], made: Record) -> Base:
    size: Counter[str] = Counter()
    for p in parameters:
        size[_kind(p)] += p.numel() * p.element_size()
    narrow = dict.fromkeys(made.narrow, str(made.base_dtype).removeprefix("torch."))
    originals = sum(made.backup[key].numel() * made.backup[key].element_size() for key in made.narrow)
    return Base(dict(size.most_common()), {**narrow, **made.wide}, originals)


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _cells(row: Row) -> tuple[str, ...]:
    sites = str(row.sites) if row.name != "total" else ""
    return (row.name, sites, str(row.tensors), f"{row.trainable:,}", f"{row.share:.2%}", _size(row.bytes), _folds(row))


def _folds(row: Row) -> str:
    return "yes" if row.foldable else "no"


def _size(number: int) -> str:
    """Bytes in decimal units."""
    return f"{number / 1e6:.2f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB" if number >= 1e3 else f"{number} B"
