"""The pieces of a page: escaped text, numbers that say where they stand in the JSON, tables, figures."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from petl.errors import printable

NOTHING = "-"
BEFORE_AFTER = (("before", "before"), ("after", "after adaptation"))  # series of a chart: CSS class, name


def text(value: object) -> str:
    """Returns text for HTML, also inside of attributes; what would steer a terminal or turn the direction of text is spelled out.

    >>> text('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(printable(str(value)), quote=True)


def script_json(value: Any) -> str:
    """Returns JSON that nothing can end early: no ``<``, no ``&``, and no line separators of Unicode.

    >>> script_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    plain = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def shown_number(value: Any, form: str) -> str:
    """Returns a number as the page shows it; ``form`` is percent, count, bytes, text, g, or a number of digits.

    >>> shown_number(0.8333, "3"), shown_number(12000, "count"), shown_number(None, "3")
    ('0.833', '12,000', '-')
    """
    if value is None:
        return NOTHING
    if form == "text" or isinstance(value, (str, bool)):
        return printable(str(value))
    if form == "percent":
        return f"{100 * value:.1f}\u00a0%"
    if form == "count":
        return f"{value:,.0f}"
    if form == "bytes":
        return f"{value / 1e6:.2f}\u00a0MB" if value >= 1e6 else f"{value / 1e3:.1f}\u00a0kB"
    return f"{value:.4g}" if form == "g" else f"{value:.{int(form)}f}"


class Doc:
    """What a page is drawn from: the dict of `Report.to_json`. A value's place in it is written ``depth.rows.0.cka``."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    def get(self, place: str, default: Any = None) -> Any:
        """Returns the value at a place, or the default where there is none."""
        value: Any = self.content
        for key in place.split("."):
            if isinstance(value, Mapping) and key in value:
                value = value[key]
            elif isinstance(value, Sequence) and not isinstance(value, str) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                return default
        return value

    def number(self, place: str, form: str) -> str:
        """Returns the number at a place for HTML; the element says which place that is."""
        return f'<span data-key="{text(place)}" data-form="{form}">{text(shown_number(self.get(place), form))}</span>'

    def with_error(self, place: str, error: str, form: str = "percent") -> str:
        """Returns the number at a place, with the one at ``error`` as its standard error where there is one."""
        shown = self.number(place, form)
        return shown if self.get(error) is None else f'{shown} <span class="pm">± {self.number(error, form)}</span>'


def html_rows(head: Sequence[str], rows: Iterable[Sequence[str]], *, classes: str = "") -> str:
    """Returns an HTML table; the cells are HTML already, the head isn't. The first column is text."""
    top = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    lines = []
    for row in rows:
        first, *rest = row
        lines.append(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>')
    body = "".join(lines)
    return (
        f'<div class="scroll"><table class="{classes}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def numbers_below(content: str) -> str:
    """Returns a part that is closed until it is asked for: the numbers of a figure."""
    return f"<details><summary>The numbers</summary>{content}</details>"


def figure(title: str, body: str, caption: str, more: str = "", *, wide: bool = False) -> str:
    """Returns a figure with its title above it, and below it what to read off, which is HTML already."""
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}><h3>{text(title)}</h3>{body}<figcaption>{caption}</figcaption>{more}</figure>"


def section(name: str, title: str, *parts: str) -> str:
    """Returns a part of the page; ``name`` is what links lead to."""
    return f'<section id="{name}"><h2>{text(title)}</h2>{"".join(parts)}</section>'


def grid(*figures: str) -> str:
    """Returns figures side by side where there is room."""
    return f'<div class="grid">{"".join(part for part in figures if part)}</div>'


def why_not(reason: object) -> str:
    """Returns the sentence that stands where a part of the page is left out."""
    return f'<p class="note">Not shown: {text(reason)}.</p>'


def picture(base64: str, alt: str, side: int = 64, kind: str = "jpeg") -> str:
    """Returns a picture that is in the page itself."""
    return f'<img src="data:image/{kind};base64,{text(base64)}" alt="{text(alt)}" width="{side}" height="{side}">'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Returns the key of a chart: (CSS class, name) for each series."""
    items = "".join(f'<li><span class="key {kind}"></span>{text(name)}</li>' for kind, name in entries)
    return f'<ul class="legend">{items}</ul>'


def each_drawn(parts: Iterable[Any], draw: Callable[[Any], str]) -> str:
    """Returns the HTML of all parts, one behind the other."""
    return "".join(draw(part) for part in parts)
