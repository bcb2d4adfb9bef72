"""Texts and tables for people: columns, their HTML for notebooks, and nothing in them that a terminal would obey."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence

JOINERS = "\u200c\u200d"  # part of how words of some languages and many emoji are spelt
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi overrides, tags), half of a pair, line, paragraph


def clean(text: object, *, keep: str = "") -> str:
    """The text with everything that a terminal obeys or hides written out: ``\\x1b``, ``\\n``, ``\\u202e``.

    Labels and file names come from strangers: escape sequences in them could move the cursor, rename the window or
    hide a line. Letters of every alphabet stay. ``keep`` names control characters that are meant.

    >>> clean("cat\\x1b[2J"), clean("two\\nlines"), clean("Zürich [small]")
    ('cat\\\\x1b[2J', 'two\\\\nlines', 'Zürich [small]')
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or c in JOINERS or not _unseen(c) else _spelt(c) for c in text)


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN


def _spelt(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def shortened(text: str, most: int) -> str:
    """The text, or its first two thirds and its end with the number of characters between them.

    >>> shortened("a" * 10_000 + " and what to do", 100)
    'aaaa... (9,9... characters left out) ...and what to do'
    """
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end]}... ({len(text) - most:,} characters left out) ...{text[-end:]}"


def table(rows: Sequence[Sequence[object]], *, left: Sequence[int] = (0,)) -> str:
    """Cells in columns, those of ``left`` to the left and the others to the right."""
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        for row in cells
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def html_table(rows: Sequence[Sequence[object]], notes: Sequence[object] = (), *, left: Sequence[int] = (0,)) -> str:
    """The same as HTML for a notebook, with a line under it for each note."""
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
    return html.escape(clean(value))
