"""The parts of a page about answers: figures, the confusion matrix with its images, mistakes, maps, where the model looks."""

from __future__ import annotations

from typing import Any

from petl.report.charts import COLOURS, point_key, point_map
from petl.report.page_parts import (
    Doc,
    figure,
    grid,
    joined,
    numbers_below,
    picture,
    section,
    shown_number,
    table,
    text,
    why_not,
)
from petl.report.thumbnails import heat_picture

MOST_IN_LEGEND = 24  # classes
BINS = 5  # of number targets, in a map


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
        below = numbers_below(table([key.replace("_", " ") for key in columns], cells))
    return figure("Measured", table(["", "value", "without the image"], rows), caption, below, wide=True)


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
    caption = f"Rows are what images are, columns what was answered. Blue is right, orange is wrong. Press a cell to see its images.{rest}"
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


def maps_section(doc: Doc) -> str:
    """Returns the maps of the images, with the slider from before to after."""
    maps = doc.content["maps"]
    if "why_not" in maps:
        return section("maps", "Maps of the images", why_not(maps["why_not"]))
    kinds, entries, said = _groups(doc)
    parts = [
        _map(doc, name, title, kinds)
        for name, title in (("pca", "Principal components"), ("tsne", "t-SNE"))
        if maps[name]
    ]
    slider = ""
    if "before" in (maps["pca"] or {}):
        slider = (
            '<p class="slider"><label for="when">before</label><input type="range" id="when" min="0" max="100" value="100" '
            'aria-label="from before adaptation to after it"><label for="when">after</label></p>'
        )
    keys = "".join(
        f'<li><button data-toggle="{group}" aria-pressed="true">{point_key(group, colour)}{text(name)}</button></li>'
        for group, colour, name in entries
    )
    key = f'<ul class="legend toggles">{keys}</ul>' if keys else ""
    missing = why_not(f"t-SNE; {maps['why_no_tsne']}") if maps.get("why_no_tsne") else ""
    return section(
        "maps", "Maps of the images", f'<p class="note">{text(said)}</p>', slider, key, grid(*parts), missing
    )


def _map(doc: Doc, name: str, title: str, kinds: list[tuple[int, str]]) -> str:
    place, maps = f"maps.{name}.after", doc.content["maps"]
    body = point_map(name, doc.get(f"{place}.points"), kinds, title)
    trust = doc.number(f"{place}.trustworthiness", "3")
    before = f" (before: {doc.number(f'maps.{name}.before.trustworthiness', '3')})" if "before" in maps[name] else ""
    caption = f"Trustworthiness {trust}{before} for {doc.number('maps.neighbours', 'count')} neighbours; 1 is wholly. "
    if name == "pca":
        shares = " and ".join(doc.number(f"{place}.shares.{k}", "percent") for k in (0, 1))
        caption += f"The axes hold {shares} of the variance{'; one fit of before and after' if maps['joint'] else ''}."
    else:
        caption += "Read off which images are neighbours; distances between groups and their sizes mean nothing."
    return figure(title, body, caption)


def _groups(doc: Doc) -> tuple[list[tuple[int, str]], list[tuple[int, str, str]], str]:
    """Returns each image's group and colour, the key (group, colour, name), and what the colours are."""
    images, targets = doc.content["images"], doc.get("data.targets")
    if targets == "numbers":
        values = [one["target"][0] if isinstance(one["target"], list) else one["target"] for one in images]
        known = sorted(value for value in values if value is not None)
        cuts = [known[(k * len(known)) // BINS] for k in range(1, BINS)] if known else []
        bins = [sum(value >= cut for cut in cuts) if value is not None else -1 for value in values]
        names = [f"from {cut:.4g}" for cut in [known[0] if known else 0, *cuts]]
        entries = [(k, f"v{k}", name) for k, name in enumerate(names)]
        return (
            [(k, f"v{k}" if k >= 0 else "other") for k in bins],
            entries,
            "Each point is an image, coloured by its target.",
        )
    key = "target" if targets == "classes" else "predicted"
    if targets == "labels" or any(not isinstance(one.get(key), int) for one in images):
        return [(0, "c0")] * len(images), [], "Each point is an image."
    counts: dict[int, int] = {}
    for one in images:
        counts[one[key]] = counts.get(one[key], 0) + 1
    told = sorted(sorted(counts, key=lambda k: (-counts[k], k))[:MOST_IN_LEGEND])
    groups = {k: (place, f"c{place % COLOURS}") for place, k in enumerate(told)}
    entries = [(place, colour, class_name(doc, k)) for k, (place, colour) in groups.items()]
    if len(counts) > len(told):
        entries.append((-1, "other", "other classes"))
    what = "its class" if key == "target" else "the answer for it"
    return (
        [groups.get(one[key], (-1, "other")) for one in images],
        entries,
        f"Each point is an image, coloured by {what}.",
    )


def looks_section(doc: Doc) -> str:
    """Returns a few images with the places that raise the answer, before and after."""
    looks = doc.content["looks"]
    if "why_not" in looks:
        return section("looks", "Where the model looks", why_not(looks["why_not"]))
    before = looks.get("before")
    cards = joined(range(len(looks["images"])), lambda k: _look(doc, k, before is not None))
    also = f", and before adaptation at {text(looks['block_before'])}" if before else ""
    missing = why_not(f"before adaptation; {looks['why_no_before']}") if looks.get("why_no_before") else ""
    grain = f"{len(looks['after'][0])} × {len(looks['after'][0][0])}"
    caption = (
        f"Gradient times activation at {text(looks['block'])} ({grain} places){also}. Bright places raise the answer; where they lie "
        "on the background, the model has learnt something about where pictures were taken. Before adaptation, the answer is "
        "that of ridge regression on the features."
    )
    body = f'<ul class="looks">{cards}</ul>'
    return section("looks", "Where the model looks", figure("Gradient × activation", body, caption, wide=True), missing)


def _look(doc: Doc, number: int, with_before: bool) -> str:
    looks = doc.content["looks"]
    row = looks["images"][number]
    one = doc.content["images"][row]
    photo = picture(looks["pictures"][number], one["file"], 112)
    shown = [f"<figure>{photo}<figcaption>image</figcaption></figure>"]
    for when in ("before", "after") if with_before else ("after",):
        heat = picture(heat_picture(looks[when][number]), "", 112, "png")
        shown.append(f'<figure><span class="heat">{photo}{heat}</span><figcaption>{when}</figcaption></figure>')
    said = text(one["file"])
    if isinstance(one.get("predicted"), int):
        right = one.get("target") == one["predicted"]
        said = f"answered <b{'' if right or 'target' not in one else ' class=bad'}>{text(class_name(doc, one['predicted']))}</b>"
        is_class = one.get("target")
        said += f", is {text(class_name(doc, is_class))}" if isinstance(is_class, int) and not right else ""
    return f"<li><div>{''.join(shown)}</div><span>{said}</span></li>"
