"""Places in a model where a method can go, as plain data that prints as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from petl.tables import html_table, table

Where = str | Sequence[str]


@dataclass(frozen=True)
class Site:
    """A place in a model, as plain data.

    ``shape`` is the weight's shape (empty where there is none), ``outputs`` the shapes of the tensors that the module
    returns for a batch of two images (of a block's several tensors, () for one that has no influence on the model's
    output), ``axes`` the axis of the channels in each of them (-1 for tokens and vectors, 1 or 3 for maps), ``order`` its
    number in the order of execution, ``rows`` the rows of a fused attention projection, where a method needs them.
    """

    name: str
    roles: tuple[str, ...]
    kind: str
    shape: tuple[int, ...] = ()
    outputs: tuple[tuple[int, ...], ...] = ()
    axes: tuple[int, ...] = ()
    order: float = 0
    rows: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Unreached:
    """A parameter that belongs to no site with a role, and why."""

    name: str
    shape: tuple[int, ...]
    why: str


class Sites(list[Site]):
    """Sites in the order of execution; prints as a table.

    ``left`` lists the parameters that no role reaches, with the reason, after ``find(model, "all")``; else it is empty.
    """

    def __init__(self, sites: Iterable[Site] = (), left: Iterable[Unreached] = ()):
        super().__init__(sites)
        self.left = list(left)

    def __repr__(self) -> str:
        return "\n\n".join(table(rows, left=range(len(rows[0]))) for rows in self._tables())

    def _repr_html_(self) -> str:
        return "".join(html_table(rows, left=range(len(rows[0]))) for rows in self._tables())

    def _tables(self) -> list[list[tuple[str, ...]]]:
        rows = [("name", "kind", "weight", "roles")]
        rows += [(s.name or "(the model)", s.kind, "x".join(map(str, s.shape)), " ".join(s.roles)) for s in self]
        left = [("not reached", "shape", "why"), *((p.name, "x".join(map(str, p.shape)), p.why) for p in self.left)]
        return [rows, left] if self.left else [rows]
