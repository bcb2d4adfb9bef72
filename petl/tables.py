"""Tables as text and as HTML for notebooks, without characters that would steer a terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence

from petl.errors import printable


def table(rows: Sequence[Sequence[object]], *, left: Sequence[int] = (0,)) -> str:
    """Returns rows as lines of text: the columns in ``left`` are aligned to the left, the others to the right."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        for row in cells
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def html_table(rows: Sequence[Sequence[object]], notes: Sequence[object] = (), *, left: Sequence[int] = (0,)) -> str:
    """Returns rows as HTML for a notebook, the first as the head, with a paragraph below for each note."""
    head, *body = rows

    def line(row: Sequence[object], tag: str) -> str:
        sides = ["left" if i in left else "right" for i in range(len(row))]
        cells = (f'<{tag} style="text-align: {side}">{_safe(c)}</{tag}>' for side, c in zip(sides, row, strict=True))
        return f"<tr>{''.join(cells)}</tr>"

    below = "".join(f"<p>{_safe(note)}</p>" for note in notes)
    return (
        f"<table><thead>{line(head, 'th')}</thead><tbody>{''.join(line(r, 'td') for r in body)}</tbody></table>{below}"
    )


def _safe(value: object) -> str:
    return html.escape(printable(str(value)))
