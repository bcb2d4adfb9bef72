"""The parts of a page about answers: figures, the confusion matrix with its images, mistakes, maps, where the model looks."""

from __future__ import annotations

from typing import Any

from petl.report.page_parts import (
    Doc,
    figure,
    grid,
    html_rows,
    numbers_below,
    picture,
    section,
    shown_number,
    text,
    why_not,
)


def class_name(doc: Doc, number: int) -> str:
    """Returns a class's name; its number, where it has none."""
    names = doc.content["classes"]
    return str(names[number]) if 0 <= number < len(names) else str(number)


def answers_section(doc: Doc) -> str:
    """Returns how good the answers are, which classes are mixed up, and the mistakes that were most certain."""
    answers = doc.content["answers"]
    if "why_not" in answers:
        return section("answers", "How good the answers are", why_not(answers["why_not"]), _metrics(doc))
    by = f'<p class="note">The answers are those of {text(answers["by"])}.</p>'
    parts = [by, grid(_confusion(doc), _cell()) if answers.get("confusion") else "", _metrics(doc)]
    for key, title, caption in (
        (
            "wrong",
            "Most confidently wrong",
            "Wrong answers, the most confident first. Look for wrong labels, images that show two things, and what such images "
            "have in common.",
        ),
        ("worst", "Farthest from the target", "The images whose answers are farthest from their targets."),
        (
            "unsure",
            "Least certain",
            "Without labels nothing is known to be wrong; these answers are the least certain.",
        ),
    ):
        if answers.get(key):
            parts.append(_gallery(doc, key, title, caption))
    return section("answers", "How good the answers are", *parts)


def _metrics(doc: Doc) -> str:
    metrics = doc.content["metrics"]
    if "why_not" in metrics:
        return f'<p class="note">No metrics: {text(metrics["why_not"])}.</p>' if doc.get("data.targets") else ""
    rows = []
    for k, one in enumerate(metrics["figures"]):
        place = f"metrics.figures.{k}"
        baseline = doc.number(f"{place}.baseline", "g") if one["baseline"] is not None else ""
        rows.append(
            [text(one["name"].replace("_", " ")), doc.with_error(f"{place}.value", f"{place}.error", "g"), baseline]
        )
    rule = f"Without the image: {text(metrics['rule'])}. " if metrics["rule"] else ""
    caption = f"{rule}± is one standard error over images; differences of less than two of them may be chance."
    per = metrics["per_label"]
    below = ""
    if per:
        columns = [key for key, value in per[0].items() if not isinstance(value, (list, dict))]
        cells = [[doc.number(f"metrics.per_label.{k}.{key}", "g") for key in columns] for k in range(len(per))]
        below = numbers_below(html_rows([key.replace("_", " ") for key in columns], cells))
    return figure("Measured", html_rows(["", "value", "without the image"], rows), caption, below, wide=True)


def _confusion(doc: Doc) -> str:
    answers = doc.content["answers"]
    shown, cells = answers["shown"], {(row[0], row[1]): (k, row[2]) for k, row in enumerate(answers["confusion"])}
    totals: dict[int, int] = {}
    for (is_class, _), (_, count) in cells.items():
        totals[is_class] = totals.get(is_class, 0) + count
    head = "".join(f'<th scope="col"><span>{text(class_name(doc, k))}</span></th>' for k in shown)
    lines = []
    for is_class in shown:
        row = "".join(_matrix_cell(doc, cells, totals, is_class, said) for said in shown)
        lines.append(f'<tr><th scope="row">{text(class_name(doc, is_class))}</th>{row}</tr>')
    there = {k for pair in cells for k in pair}
    rest = (
        f" Drawn are the {len(shown)} of {len(there)} classes that are mixed up most."
        if len(there) > len(shown)
        else ""
    )
    body = (
        f'<div class="scroll"><table class="matrix"><thead><tr><td class="corner">is ↓ · answered →</td>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
    caption = "Rows are what images are, columns what was answered. Blue is right, orange is wrong. Press a cell for its images."
    caption += rest
    return figure("What is taken for what", body, caption)


def _matrix_cell(
    doc: Doc, cells: dict[tuple[int, int], tuple[int, int]], totals: dict[int, int], is_class: int, said: int
) -> str:
    if (is_class, said) not in cells:
        return "<td></td>"
    place, count = cells[is_class, said]
    share = count / totals[is_class]
    kind = "right" if is_class == said else "wrong"
    label = f"{count} images of {class_name(doc, is_class)} answered {class_name(doc, said)}"
    strong = " strong" if share >= 0.5 else ""
    return (
        f'<td><button class="{kind}{strong}" style="--v:{0.12 + 0.88 * share:.2f}" data-is="{is_class}" data-said="{said}" '
        f'aria-label="{text(label)}">{doc.number(f"answers.confusion.{place}.2", "count")}</button></td>'
    )


def _cell() -> str:
    start = "Press a cell of the matrix to see its images here."
    return figure("The images of a cell", f'<div id="cell" aria-live="polite"><p class="note">{start}</p></div>', "")


def _gallery(doc: Doc, key: str, title: str, caption: str) -> str:
    images, cards = doc.content["images"], []
    for row in doc.get(f"answers.{key}"):
        one = images[row]
        if "predicted" in one:
            is_class = (
                f"is <b>{text(class_name(doc, one['target']))}</b>, " if isinstance(one.get("target"), int) else ""
            )
            sure = doc.number(f"images.{row}.confidence", "percent")
            said = f"{is_class}answered <b>{text(class_name(doc, one['predicted']))}</b> ({sure})"
        else:
            off = doc.get(f"answers.misses.{row}")
            said = f"target {text(_values(doc, one.get('target')))}, answered {text(_values(doc, one.get('values')))}"
            said += f"; off by {doc.number(f'answers.misses.{row}', 'g')}" if off is not None else ""
        shown = picture(one["picture"], one["file"], 80)
        cards.append(f'<li>{shown}<span>{said}</span><span class="file">{text(one["file"])}</span></li>')
    return figure(title, f'<ul class="cards">{"".join(cards)}</ul>', caption, wide=True)


def _values(doc: Doc, values: Any) -> str:
    """Returns targets or answers as text: numbers, or the labels that an image has."""
    listed = values if isinstance(values, list) else [values]
    if doc.get("data.targets") == "labels":
        return ", ".join(class_name(doc, k) for k, one in enumerate(listed) if one and one >= 0.5) or "none"
    return ", ".join(shown_number(one, "g") for one in listed)
