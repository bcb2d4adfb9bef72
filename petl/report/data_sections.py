"""The parts of a page about the images, and about what petl's other guidance found."""

from __future__ import annotations

from typing import Any

from petl.report.page_parts import (
    Doc,
    each_drawn,
    figure,
    grid,
    html_rows,
    numbers_below,
    picture,
    section,
    text,
)


def data_section(doc: Doc) -> str:
    """Returns what the images are, how many each class has, and which are there twice."""
    data = doc.content["data"]
    of = f" of {doc.number('data.of', 'count')}" if (data["of"] or 0) > data["images"] else ""
    rows = [
        ["Images", f"{doc.number('data.images', 'count')}{of}"],
        ["From", text(data["about"])],
        ["As the model takes them", _size(doc)],
        *([["Classes", doc.number("data.classes", "count")]] if "classes" in data else []),
        ["Files that can't be read", doc.number("data.unreadable_files", "count")],
        ["Images that equal another one", doc.number("data.twins.equal", "count")],
        ["Pairs that are nearly the same", doc.number("data.twins.near", "count")],
        ["Pairs of these whose labels differ", doc.number("data.twins.labels_differ", "count")],
    ]
    facts = figure(
        "What was looked at", html_rows(["", ""], rows, classes="facts"), _facts_caption(doc), _unreadable(doc)
    )
    return section("data", "The images", grid(facts, _targets(doc)), _twins(doc))


def _size(doc: Doc) -> str:
    sides = f"{doc.number('data.height', 'count')} x {doc.number('data.width', 'count')} pixels"
    return f"{sides}, {doc.number('data.channels', 'count')} channels"


def _facts_caption(doc: Doc) -> str:
    if not doc.get("data.twins.equal") and not doc.get("data.twins.near"):
        return "No image is there twice, so no answer is counted twice."
    return (
        "Images that are there twice count twice in every figure; where their labels differ, at least one label is wrong. Look "
        "at them first."
    )


def _unreadable(doc: Doc) -> str:
    rows = [[text(name), text(why)] for name, why in doc.get("data.unreadable", [])]
    return numbers_below(html_rows(["file", "why it can't be read"], rows)) if rows else ""


def _targets(doc: Doc) -> str:
    rows = doc.get("data.per_class") or []
    if rows:
        what = "label" if doc.get("data.targets") == "labels" else "class"
        most = max(count for _, count in rows) or 1
        bars = "".join(
            f'<li><span class="name">{text(name)}</span><span class="bar"><i style="width:{100 * count / most:.1f}%"></i></span>'
            f"{doc.number(f'data.per_class.{row}.1', 'count')}</li>"
            for row, (name, count) in enumerate(rows)
        )
        total = doc.get("data.classes") or len(rows)
        rest = f" The {total - len(rows):,} classes with fewer images aren't drawn." if total > len(rows) else ""
        caption = (
            f"How many images each {what} has. A few images decide little: read figures of short bars with care.{rest}"
        )
        return figure(f"Images of each {what}", f'<ul class="bars">{bars}</ul>', caption)
    numbers = doc.get("data.numbers") or []
    if numbers:
        cells = [
            [text(one[0]), *(doc.number(f"data.numbers.{row}.{k}", "g") for k in (1, 2, 3, 4))]
            for row, one in enumerate(numbers)
        ]
        body = html_rows(["target", "images", "least", "mean", "greatest"], cells)
        return figure("The targets", body, "Numbers, as they are in the data.")
    return figure("Targets", "", "The images have no labels, so nothing here says what is right.")


def _twins(doc: Doc) -> str:
    pairs = doc.get("data.twins.pairs") or []
    if not pairs:
        return ""
    images, cards = doc.content["images"], []
    for row, (one, other, _, differ) in enumerate(pairs):
        said = '<b class="bad">labels differ</b>' if differ else "same label"
        shown = "".join(picture(images[i]["picture"], images[i]["file"]) for i in (one, other))
        names = f"{text(images[one]['file'])} and {text(images[other]['file'])}"
        alike = doc.number(f"data.twins.pairs.{row}.2", "3")
        cards.append(f"<li>{shown}<span>{said}, {alike}</span><span class='file'>{names}</span></li>")
    caption = (
        "Pairs with the correlation of their pictures at 16 x 16 pixels, those whose labels differ first. Correct the labels, "
        "or leave one of each pair out."
    )
    return figure("There twice", f'<ul class="cards">{"".join(cards)}</ul>', caption, wide=True)


def findings_section(doc: Doc) -> str:
    """Returns what petl's other guidance found, as its sentences and tables."""
    found = doc.content["findings"]
    if not found:
        return ""
    return section("why", "Why this backbone and this method", *(_finding(doc, number) for number in range(len(found))))


def _finding(doc: Doc, number: int) -> str:
    place, one = f"findings.{number}", doc.get(f"findings.{number}")
    said = f"<ul>{each_drawn(one['sentences'], lambda line: f'<li>{text(line)}</li>')}</ul>" if one["sentences"] else ""
    tables = "".join(_found_table(doc, f"{place}.tables.{k}", part) for k, part in enumerate(one["tables"]))
    facts = [[text(name), doc.number(f"{place}.facts.{k}.1", "g")] for k, (name, _) in enumerate(one["facts"])]
    below = numbers_below(html_rows(["", ""], facts, classes="facts")) if facts else ""
    return figure(
        one["title"], said + ("" if said else tables), "", (numbers_below(tables) if said and tables else "") + below
    )


def _found_table(doc: Doc, place: str, part: dict[str, Any]) -> str:
    rows = [
        [doc.number(f"{place}.rows.{i}.{k}", "g") for k in range(len(part["columns"]))]
        for i in range(len(part["rows"]))
    ]
    more = f"<p class='note'>The first {len(rows)} of {part['of']:,} rows.</p>" if part["of"] > len(rows) else ""
    return f"<h4>{text(part['title'])}</h4>{html_rows(part['columns'], rows)}{more}"
