"""The parts of a page about the training, and about what the delta costs and how the page is made again."""

from __future__ import annotations

from petl.report.charts import Axes, Line, line_chart
from petl.report.page_parts import (
    Doc,
    each_drawn,
    figure,
    grid,
    html_rows,
    numbers_below,
    section,
    shown_number,
    text,
    why_not,
)

NO_SHARES = ("r2", "spearman", "quadratic_kappa")  # figures that are 1 at best, and no part of anything


def curves_section(doc: Doc) -> str:
    """Returns the learning curves of the training."""
    curves = doc.content["curves"]
    if "why_not" in curves:
        return section("training", "How it was trained", why_not(curves["why_not"]))
    charts = [_losses(doc)]
    if curves["monitor"] in curves["columns"] and curves["monitor"] != "loss":
        charts.append(_monitor(doc))
    notes = each_drawn(curves["notes"], lambda note: f'<p class="note">{text(note)}</p>')
    return section("training", "How it was trained", grid(*charts), notes, numbers_below(_epochs(doc)))


def _axes(doc: Doc, y: str, form: str) -> Axes:
    rows, best = doc.get("curves.rows"), doc.get("curves.best_epoch")
    labels = [str(row.get("epoch", number + 1)) for number, row in enumerate(rows)]
    marks = {k: f"epoch {best}, the best" for k, row in enumerate(rows) if best and row.get("epoch") == best}
    return Axes(labels, "epoch", y, form, marks=marks)


def _losses(doc: Doc) -> str:
    series = (("train", "training loss", "train_loss"), ("after", "validation loss", "loss"))
    lines = [Line(kind, name, [row.get(key) for row in doc.get("curves.rows")]) for kind, name, key in series]
    caption = "Where the validation loss rises while the training loss falls, the model learns images by heart."
    return figure("Losses", line_chart(_axes(doc, "loss", "3"), lines, mark_name="best epoch"), caption)


def _monitor(doc: Doc) -> str:
    monitor = doc.get("curves.monitor")
    values = [row.get(monitor) for row in doc.get("curves.rows")]
    shares = monitor not in NO_SHARES and all(0 <= (value or 0) <= 1 for value in values)
    form = "percent" if shares else "3"
    name = monitor.replace("_", " ")
    chart = line_chart(_axes(doc, name, form), [Line("after", name, values)], mark_name="best epoch")
    caption = "The epoch that was kept was chosen by this curve, so its height there is a little optimistic."
    return figure(f"Validation: {name}", chart, caption)


def _epochs(doc: Doc) -> str:
    columns = doc.get("curves.columns")
    rows = [
        [doc.number(f"curves.rows.{row}.{name}", "g") for name in columns] for row in range(len(doc.get("curves.rows")))
    ]
    return html_rows([name.replace("_", " ") for name in columns], rows)


def cost_section(doc: Doc) -> str:
    """Returns what the delta costs, and how the page is made again."""
    caption = "The delta is the whole of what this task adds."
    facts = figure("What it costs", html_rows(["", ""], _costs(doc), classes="facts"), caption)
    return section("again", "What it costs, and how to make it again", grid(facts, _again(doc)))


def _costs(doc: Doc) -> list[list[str]]:
    cost = doc.content["cost"]
    rows = [["Numbers of the whole model", doc.number("cost.parameters", "count")]]
    if "trained" in cost:
        share = doc.number("cost.share", "percent")
        rows.append(["Of these the task's own", f"{doc.number('cost.trained', 'count')} ({share})"])
    if cost.get("delta_bytes"):
        rows.append(["The delta", doc.number("cost.delta_bytes", "bytes")])
    if cost.get("seconds"):
        rows.append(["Seconds of training", doc.number("cost.seconds", "1")])
        rows.append(["Epochs", doc.number("cost.epochs", "count")])
    for k, method in enumerate(cost.get("methods") or []):
        rows.append([f"Method {text(method['name'])}", f"{doc.number(f'cost.methods.{k}.sites', 'count')} places"])
    return rows


def _again(doc: Doc) -> str:
    again = doc.content["reproduce"]
    versions = [[text(name), text(version)] for name, version in again["versions"].items()]
    settings = [[text(name), text(shown_number(value, "text"))] for name, value in again["settings"].items()]
    methods = each_drawn(
        doc.get("cost.methods") or [], lambda method: f"<li><code>{text(method['options'])}</code></li>"
    )
    more = f"<h4>Methods</h4><ul>{methods}</ul>" if methods else ""
    more += f"<h4>Settings of the training</h4>{html_rows(['', ''], settings, classes='facts')}" if settings else ""
    more += f"<h4>Versions</h4>{html_rows(['', ''], versions, classes='facts')}"
    command = f"<pre>{text(again['command'])}</pre>" if again["command"] else ""
    code = "\n".join(map(text, again["code"]))
    backbone = "".join(f" {text(key)}: {text(value)}." for key, value in again["backbone"].items())
    caption = f"data: {text(again['data'])}.{f' Backbone {backbone.strip()}' if backbone else ''}"
    return figure("In Python", f"<pre>{code}</pre>{command}", caption, numbers_below(more))
