"""The parts of a page about what has changed inside of a model: blocks, classes, frequencies."""

from __future__ import annotations

from typing import Any

from petl.report.charts import Axes, Line, line_chart
from petl.report.page_parts import BEFORE_AFTER, Doc, figure, grid, html_rows, numbers_below, section, text, why_not


def depth_section(doc: Doc) -> str:
    """Returns the curves over the blocks: alignment with the model before, and what can be read."""
    rows = doc.get("depth.rows")
    labels, marks = _labels(rows), {k: _told(row) for k, row in enumerate(rows) if row["delta"]}
    missing = why_not(f"the blocks; {doc.get('depth.why_no_blocks')}") if doc.get("depth.why_no_blocks") else ""
    charts = [_cka(doc, rows, labels, marks), _probing(rows, labels, marks)]
    outside = doc.get("depth.outside") or {}
    more = f'<p class="note">Outside of the blocks: {text(_sites(outside))}.</p>' if outside else ""
    if not any(charts):
        missing += why_not("it takes labels, or a model before adaptation, to say something about the blocks")
    return section(
        "depth", "How deep the change goes", missing, grid(*charts), more, numbers_below(_depth_table(doc, rows))
    )


def _labels(rows: list[dict[str, Any]]) -> list[str]:
    """Returns short names of the blocks: without what they all begin with."""
    names = [row["block"] for row in rows[:-1]]
    heads = {name.rsplit(".", 1)[0] if "." in name else "" for name in names}
    first = {name.split(".", 1)[0] for name in names}
    cut = f"{next(iter(first))}." if len(first) == 1 and heads != {""} else ""
    short = [name.removeprefix(cut) for name in names]
    return [*(name if len(name) <= 8 else f"…{name[-7:]}" for name in short), "end"]


def _told(row: dict[str, Any]) -> str:
    return f"{row['block']}: {_sites(row['delta'])}"


def _sites(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} at {count} place{'s' * (count != 1)}" for name, count in counts.items())


def _cka(doc: Doc, rows: list[dict[str, Any]], labels: list[str], marks: dict[int, str]) -> str:
    if all(row.get("cka") is None for row in rows):
        reason = doc.content["why_no_before"]
        return f"<div>{why_not(f'alignment with the model before; {reason}')}</div>" if reason else ""
    lines = [
        Line("after", "before and after", [row.get("cka") for row in rows]),
        Line("within", "the same, inside classes", [row.get("cka_within_classes") for row in rows]),
        Line("before", "before, on mirrored images", [row.get("cka_mirrored") for row in rows]),
    ]
    least = min(value for line in lines for value in line.values if value is not None)
    low = 0.9 if least > 0.9 else None if least > 0.5 else min(0.0, least)  # never so fine that nothing looks like much
    axes = Axes(labels, "block", "unbiased CKA", "3", low, 1.0, marks)
    caption = (
        "1 is the same up to rotation and scale, 0 is nothing in common. Where the blue line falls below the grey one, a block "
        f"has changed by more than a mirror does. Shuffled images give {doc.number('depth.cka_shuffled', '3')}, so the "
        f"measure invents nothing at {doc.number('depth.images', 'count')} images."
    )
    return figure("Alike before and after", line_chart(axes, lines, mark_name="places of the delta"), caption)


def _probing(rows: list[dict[str, Any]], labels: list[str], marks: dict[int, str]) -> str:
    if all(row.get("accuracy_after") is None for row in rows):
        return ""
    lines = [_with_errors(when, name, rows) for when, name in BEFORE_AFTER]
    chart = line_chart(
        Axes(labels, "block", "accuracy", "percent", marks=marks), lines, mark_name="places of the delta"
    )
    caption = (
        "How many images a leave-one-out reading of each block gets right (the better of ridge regression and nearest "
        "neighbours); bars are one standard error. Where the lines part is where adaptation pays; where they fall toward the "
        "end, an earlier block reads better."
    )
    return figure("What can be read from each block", chart, caption)


DEPTH_COLUMNS = (
    ("CKA", "cka", "3"),
    ("inside classes", "cka_within_classes", "3"),
    ("mirrored", "cka_mirrored", "3"),
    ("read before", "accuracy_before", "percent"),
    ("read after", "accuracy_after", "percent"),
)


def _depth_table(doc: Doc, rows: list[dict[str, Any]]) -> str:
    columns = [column for column in DEPTH_COLUMNS if any(row.get(column[1]) is not None for row in rows)]
    cells = [
        [
            text(row["block"]),
            *(doc.number(f"depth.rows.{k}.{key}", form) for _, key, form in columns),
            text(_sites(row["delta"])),
        ]
        for k, row in enumerate(rows)
    ]
    return html_rows(["block", *(name for name, _, _ in columns), "delta"], cells)


COLLAPSE_ROWS = (
    ("nc1", "Spread inside classes against between them (NC1)"),
    ("cdnv", "Class-distance variance (CDNV)"),
    ("norms", "Unevenness of the class means' lengths"),
    ("angles", "Unevenness of their angles"),
    ("disagreement", "Nearest mean and classifier disagree"),
)


def collapse_section(doc: Doc) -> str:
    """Returns how tightly classes lie, and how evenly apart."""
    collapse = doc.content["collapse"]
    if "why_not" in collapse:
        return section("classes", "How classes lie", why_not(collapse["why_not"]))
    whens = [(when, name) for when, name in BEFORE_AFTER if when in collapse]
    rows = [
        [
            text(words),
            *(doc.number(f"collapse.{when}.{key}", "percent" if key == "disagreement" else "3") for when, _ in whens),
        ]
        for key, words in COLLAPSE_ROWS
        if any(collapse[when][key] is not None for when, _ in whens)
    ]
    caption = (
        f"Of {doc.number('collapse.images', 'count')} images of {doc.number('collapse.after.classes', 'count')} classes, at the "
        "classifier's input. Each is 0 where every image lies on its class mean and the means are as far apart as they can be "
        "(neural collapse). Lower is easier to classify; far lower on training images than on new ones is learning by heart."
    )
    return section(
        "classes",
        "How classes lie",
        figure("Neural collapse", html_rows(["", *(name for _, name in whens)], rows), caption),
    )


def bands_section(doc: Doc) -> str:
    """Returns how much features and readings depend on each band of frequencies."""
    bands = doc.content["bands"]
    if "why_not" in bands:
        return section("bands", "Which detail matters", why_not(bands["why_not"]))
    charts = grid(_changes(bands), _still_read(doc, bands))
    return section("bands", "Which detail matters", charts, numbers_below(_band_table(doc, bands["rows"])))


def _band_axes(bands: dict[str, Any], y: str, form: str, **more: Any) -> Axes:
    labels = [
        "mean" if row["band"] == 0 else f">{row['from']:.3g}" if row["to"] is None else f"{row['to']:.3g}"
        for row in bands["rows"]
    ]
    return Axes(labels, "band left out, up to so many cycles per image side", y, form, **more)


def _changes(bands: dict[str, Any]) -> str:
    lines = [Line(when, name, [row.get(f"change_{when}") for row in bands["rows"]]) for when, name in BEFORE_AFTER]
    chart = line_chart(_band_axes(bands, "relative change", "2", low=0.0), lines)
    caption = (
        "Distance that features move without a band, in units of their spread over images. A peak to the left: shapes and "
        "shades count; to the right: fine texture does."
    )
    return figure("How far features move", chart, caption)


def _still_read(doc: Doc, bands: dict[str, Any]) -> str:
    lines = [_with_errors(when, name, bands["rows"]) for when, name in BEFORE_AFTER]
    if all(value is None for line in lines for value in line.values):
        return ""
    guides = [(f"whole {when}", f"whole image, {name}", bands.get(f"accuracy_{when}")) for when, name in BEFORE_AFTER]
    chart = line_chart(_band_axes(bands, "accuracy", "percent", guides=guides), lines)
    caption = (
        f"Accuracy of a reading that was fitted on whole images, on {doc.number('bands.images', 'count')} images without the "
        "band. Where a line dips below its level line, the answer hangs on that detail; bars are one standard error."
    )
    return figure("What is still read", chart, caption)


def _with_errors(when: str, name: str, rows: list[dict[str, Any]]) -> Line:
    return Line(when, name, [row.get(f"accuracy_{when}") for row in rows], [row.get(f"error_{when}") for row in rows])


def _band_table(doc: Doc, rows: list[dict[str, Any]]) -> str:
    columns = [
        (f"{what} {name}", f"{key}_{when}", form)
        for key, what, form in (("change", "change", "3"), ("accuracy", "accuracy", "percent"))
        for when, name in BEFORE_AFTER
        if any(row.get(f"{key}_{when}") is not None for row in rows)
    ]
    cells = [
        [
            f"{doc.number(f'bands.rows.{k}.from', '2')} to {doc.number(f'bands.rows.{k}.to', '2')}",
            *(doc.number(f"bands.rows.{k}.{key}", form) for _, key, form in columns),
        ]
        for k in range(len(rows))
    ]
    return html_rows(["cycles per image side", *(name for name, _, _ in columns)], cells)
