"""`summary`: what a wrapped model holds, method by method."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from petl.delta.tensors import delta_tensors
from petl.errors import listing, printable
from petl.graft.kinds import grafts
from petl.memory.explain import explain_layers
from petl.tables import html_table, table
from petl.wrapping.lookup import require_record, trainable
from petl.wrapping.merge import unfoldable
from petl.wrapping.own_tensors import own_tensor, state_entries
from petl.wrapping.record import Record

PLAIN_WORDS = (
    (
        r"^plain: \w+ is not one low-rank change$",
        "plain: the change is more than a low-rank one, and needs the whole weight's gradient",
    ),
    (r"^plain: \w+ on (\w+), which no kernel knows$", r"plain: there is no cheaper way for \1"),
)


@dataclass(frozen=True)
class Row:
    """What one method, or the head, brought: sites, tensors, bytes in the delta, and whether ``merge`` can fold it.

    ``trainable`` counts the numbers that train, ``share`` is their share of the base's numbers.
    """

    name: str
    sites: int
    tensors: int
    trainable: int
    share: float
    bytes: int
    foldable: bool


@dataclass(frozen=True)
class Base:
    """The base's parameters in bytes by dtype.

    For a model with ``base_dtype``, ``matrices`` maps each matrix and kernel to its dtype, or to the reason why it kept its
    own, and ``originals`` are the bytes of the original values, which are kept in main memory.
    """

    bytes: dict[str, int]
    matrices: dict[str, str]
    originals: int

    def __repr__(self) -> str:
        parts = ", ".join(f"{_decimal_size(size)} {kind}" for kind, size in self.bytes.items())
        reasons = Counter(text for text in self.matrices.values() if text not in self.bytes).most_common()
        left = "".join(f"; {count} matri{'ces' if count > 1 else 'x'} left: {reason}" for reason, count in reasons)
        return f"base: {parts}{left}; the originals in main memory: {_decimal_size(self.originals)}"


class Summary(tuple[Row, ...]):
    """Rows per method, then the head; prints as a table with a total. ``trainable`` and ``bytes`` are the totals.

    ``steps`` says for each layer how training steps run it, and for plain ones why; ``base`` is the memory of the base,
    ``task`` what the outputs mean, as in "regression (years)"; "" where that isn't recorded.
    """

    def __init__(
        self, rows: Sequence[Row], steps: dict[str, str] | None = None, base: Base | None = None, task: str = ""
    ):
        self.steps, self.base, self.task = steps or {}, base or Base({}, {}, 0), task

    def __new__(
        cls, rows: Sequence[Row], steps: dict[str, str] | None = None, base: Base | None = None, task: str = ""
    ) -> Summary:
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
        lines += [printable(f"task: {self.task}")] if self.task else []
        return [*lines, *([printable(repr(self.base))] if self.base.matrices else [])]

    def _total(self) -> Row:
        share = sum(row.share for row in self)
        return Row(
            "total", 0, sum(r.tensors for r in self), self.trainable, share, self.bytes, all(r.foldable for r in self)
        )


def summary(model: nn.Module) -> Summary:
    """Returns what ``wrap`` put onto the model: per method its sites, tensors, trainable numbers, bytes, and whether it folds.

    A tensor that two methods train is counted for the first.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=10)
    >>> [row.name for row in petl.summary(model)]
    ['lora', 'head']
    """
    plain, record = require_record(model)
    delta, by_hand = delta_tensors(plain, record)
    training = trainable(plain)
    base = _base_parameters(plain)
    numbers_of_base = sum(p.numel() for p in base)
    parts = [
        (m.name, len(sites), keys) for m, sites, keys in zip(record.methods, record.sites, record.tensors, strict=True)
    ]
    parts += [("head", len(record.head), record.head_tensors)] if record.head else []
    parts += [("by hand", 0, by_hand)] if by_hand else []
    unmergeable = unfoldable(plain)
    rows = []
    for name, sites, keys in parts:
        tensors = {key: delta.pop(key) for key in keys if key in delta}
        numbers = sum(tensors[key].numel() for key in tensors if key in training)  # running statistics don't train
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        folds = not any(key.startswith(f"{graft}.") for key in tensors for graft in unmergeable)
        rows.append(Row(name, sites, len(tensors), numbers, numbers / numbers_of_base, size, folds))
    return Summary(rows, explain_layers(plain, record.memory), _describe_base(base, record), _task_words(record))


def _task_words(record: Record) -> str:
    """Returns what the outputs mean; "" for a classification, which is what a reader takes them for."""
    if record.task in (None, "", "classification"):
        return ""
    units = [record.units] if isinstance(record.units, str) else record.units or []
    return f"{record.task}{f' ({listing(units)})' if units else ''}"


def _in_plain_words(way: str) -> str:
    """Returns a text of ``steps`` without the names of classes inside petl."""
    for inside, words in PLAIN_WORDS:
        way = re.sub(inside, words, way)
    return way


def _base_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters of the base: all but those of grafts."""
    inside = {id(p) for module in model.modules() for _, graft in grafts(module) for p in graft.parameters()}
    tensors = [own_tensor(owner, leaf) for _, owner, leaf in state_entries(model)]
    return [t for t in tensors if isinstance(t, nn.Parameter) and id(t) not in inside]


def _describe_base(parameters: Sequence[nn.Parameter], record: Record) -> Base:
    size: Counter[str] = Counter()
    for p in parameters:
        size[_dtype_name(p)] += p.numel() * p.element_size()
    narrow = dict.fromkeys(record.low_precision_keys, str(record.base_dtype).removeprefix("torch."))
    originals = sum(
        record.originals[key].numel() * record.originals[key].element_size() for key in record.low_precision_keys
    )
    return Base(dict(size.most_common()), {**narrow, **record.full_precision_reasons}, originals)


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _cells(row: Row) -> tuple[str, ...]:
    sites = str(row.sites) if row.name != "total" else ""
    return (
        row.name,
        sites,
        str(row.tensors),
        f"{row.trainable:,}",
        f"{row.share:.2%}",
        _decimal_size(row.bytes),
        _folds(row),
    )


def _folds(row: Row) -> str:
    return "yes" if row.foldable else "no"


def _decimal_size(number: int) -> str:
    """Bytes in decimal units."""
    return f"{number / 1e6:.2f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB" if number >= 1e3 else f"{number} B"
