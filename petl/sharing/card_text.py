"""The part of a model card that people read. Texts out of a header are shown as they are: none is read as Markdown or HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from petl.delta.fitting import rounded_type
from petl.delta.recorded_results import figure_text
from petl.errors import printable, shortened
from petl.methods.default import method_text
from petl.methods.registry import method_from_json
from petl.sharing.delta_facts import DeltaFacts
from petl.sharing.words import TASK_WORDS, classes_in_words, settings_in_words

LABELS_SHOWN, LONGEST_LABEL = 100, 80
PIPE = "\\|"  # in a cell of a table
ROWS_SHOWN = 20  # of a comparison


def card_text(facts: DeltaFacts, repo: str, address: str) -> str:
    """Returns the card below its YAML; ``address`` is what `petl.load` takes."""
    parts = [
        f"# {repo.partition('/')[2]}",
        _first(facts),
        _use(facts, address),
        _results(facts),
        _labels(facts),
        _recipe(facts),
        _compared(facts),
        _licence(facts),
        _report(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def code(text: object, most: int = LONGEST_LABEL) -> str:
    """Returns a text that Markdown shows as it is.

    >>> print(code("a`b"))
    `` a`b ``
    """
    shown = " ".join(shortened(printable(str(text)), most).split()) or " "
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    return f"{fence} {shown} {fence}" if "`" in shown else f"`{shown}`"


def rows_in_markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [[cell.replace("|", PIPE) for cell in line] for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _first(facts: DeltaFacts) -> str:
    name = code(facts.base.name or "a model")
    base = f"[{name}](https://huggingface.co/{facts.base.hub})" if facts.base.hub else name
    what = TASK_WORDS.get(facts.header.task or "", "images")
    rounded = rounded_type(facts.header)
    outputs = f"outputs near those (its numbers were rounded to {code(rounded)})" if rounded else "the outputs"
    return (
        f"A petl delta for {what}{classes_in_words(facts.header)}: {facts.numbers:,} numbers "
        f"({facts.bytes:,} bytes) that go onto {base}. It loads onto that backbone with {outputs} of the model "
        "that was trained, and it can be taken off or merged again."
    )


def _use(facts: DeltaFacts, address: str) -> str:
    builds = bool(facts.base.name) and not facts.header.backbone.get("unrecorded")
    load = f'model = petl.load("{address}")  # timm fetches the backbone'
    if builds and ":" in str(facts.base.name):
        load = f"model = petl.load(\"{address}\", trust_remote=True)  # the backbone isn't one of timm's own"
    if not builds:
        load = (
            f'model = petl.load("{address}", backbone)  # backbone: the model that it was made on, which no name builds'
        )
    lines = ["import petl", "", load, 'print(petl.predict(model, "image.jpg"))  # a file, a folder, or a list of files']
    text = "\n".join(["## Use", "", "```python", *lines, "```"])
    if builds and ":" not in str(facts.base.name):
        text += f"\n\n```sh\npip install petl-vision\npetl predict {address} image.jpg\n```"
    return text


def _results(facts: DeltaFacts) -> str:
    if not facts.figures:
        return ""
    dataset = f" on {code(facts.dataset)}" if facts.dataset else ""
    n = f"{facts.images:,}" if facts.images else ""
    rows = [(figure.name.replace("_", " "), figure_text(figure.value, figure.error), n) for figure in facts.figures]
    note = "The value after +- is the standard error."
    if facts.chosen_by:
        note += " These are the images by which the training chose its best epoch, so the figures are optimistic."
    return f"## Results{dataset}\n\n{rows_in_markdown(('metric', 'value', 'images'), rows)}\n\n{note}"


def _labels(facts: DeltaFacts) -> str:
    labels = facts.header.labels or []
    if not labels:
        return ""
    rest = len(labels) - LABELS_SHOWN
    more = f' and {rest:,} more: `petl.read(...)["labels"]` has them' if rest > 0 else ""
    return f"## Labels\n\n{', '.join(code(label) for label in labels[:LABELS_SHOWN])}{more}"


def _recipe(facts: DeltaFacts) -> str:
    header = facts.header
    lines = [
        f"- {code(method['name'])}: {_said(method)} At {len(places):,} place{'s' * (len(places) != 1)}."
        for method, places in zip(header.methods, header.sites, strict=True)
    ]
    lines.append("- the classifier: trained too." if header.head else "- the classifier: the backbone's own.")
    if facts.training:
        lines.append(f"- the training: {', '.join(f'{key} {code(value)}' for key, value in facts.training.items())}.")
    size = (header.pipeline or {}).get("input_size")
    if size:
        lines.append(f"- the images: {size[0]} channels, {size[1]} x {size[2]} pixels; `petl.predict` prepares them.")
    return "\n".join(["## Recipe", "", *lines])


def _said(method: dict[str, Any]) -> str:
    """Returns what a method does and its settings, in words."""
    try:
        one = method_from_json(method)
        words, text = settings_in_words(one), (type(one).__doc__ or "").strip().split("\n")[0].replace("``", "`")
        return f"{text} {words} As petl writes it: {code(method_text(one), 300)}."
    except Exception:  # another library's method, which isn't installed here
        return f"settings {code(method, 300)}."


def _compared(facts: DeltaFacts) -> str:
    found = facts.comparison
    if found is None:
        return ""
    told, rows = found["held_out"], [row for row in found["rows"] if isinstance(row, dict)]
    score = figure_text(float(told["accuracy"]), told.get("error"))
    lines = [
        f"`petl compare` tried {len(rows)} settings with short trainings. The winner, {code(found.get('best_name'))}, reaches "
        f"{printable(str(found.get('measure', 'accuracy')))} {score} on {int(told['images']):,} images that chose nothing."
    ]
    for one in found.get("baselines") or ():
        lines.append(f"- beside it, {code(one['name'])}: {figure_text(float(one['accuracy']), one.get('error'))}")
    if isinstance(found.get("chance"), float):
        lines.append(f"- an answer that needs no image: {figure_text(found['chance'], None)}")
    cells = [
        (
            code(row["name"]),
            "" if row.get("accuracy") is None else figure_text(row["accuracy"], row.get("error")),
            f"{row['trainable']:,}",
            printable(str(row["end"])),
        )
        for row in rows[:ROWS_SHOWN]
    ]
    head = ("setting", "on the images that choose", "numbers that train", "end")
    return "\n".join(["## Compared with", "", lines[0], "", *lines[1:], "", rows_in_markdown(head, cells)])


def _licence(facts: DeltaFacts) -> str:
    base, warning = facts.base.name, facts.base.warning
    lines = [f"This delta: {code(facts.licence)}."] if facts.licence else []
    if base and facts.base.licence:
        lines.append(
            f"The weights of {code(base)} are under {code(facts.base.licence)}; a delta is of use with them alone."
        )
    if warning:
        lines.append(f"**The weights of {code(base)} {printable(warning)}.**")
    return "\n".join(["## Licence", "", *lines]) if lines else ""


def _report(facts: DeltaFacts) -> str:
    if facts.report is None:
        return ""
    link = f"[{facts.report}]({quote(facts.report)})"
    return f"## Report\n\n{link} shows mistakes, maps, depth and costs; download it, and open it in a browser."
