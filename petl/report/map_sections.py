"""The parts of a page with the maps of the images, and with the places where the model looks."""

from __future__ import annotations

from petl.report.answer_sections import class_name
from petl.report.charts import COLOUR_COUNT, point_key, point_map
from petl.report.page_parts import Doc, each_drawn, figure, grid, picture, section, text, why_not
from petl.report.thumbnails import heat_picture

MOST_IN_LEGEND = 24  # classes
BINS = 5  # of number targets, in a map


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


PointGroups = tuple[list[tuple[int, str]], list[tuple[int, str, str]], str]


def _groups(doc: Doc) -> PointGroups:
    """Returns each image's group and colour, the key (group, colour, name), and what the colours are."""
    images, targets = doc.content["images"], doc.get("data.targets")
    if targets == "numbers":
        return _groups_of_numbers(doc)
    key = "target" if targets == "classes" else "predicted"
    if targets == "labels" or any(not isinstance(one.get(key), int) for one in images):
        return [(0, "c0")] * len(images), [], "Each point is an image."
    counts: dict[int, int] = {}
    for one in images:
        counts[one[key]] = counts.get(one[key], 0) + 1
    told = sorted(sorted(counts, key=lambda k: (-counts[k], k))[:MOST_IN_LEGEND])
    groups = {k: (place, f"c{place % COLOUR_COUNT}") for place, k in enumerate(told)}
    entries = [(place, colour, class_name(doc, k)) for k, (place, colour) in groups.items()]
    if len(counts) > len(told):
        entries.append((-1, "other", "other classes"))
    what = "its class" if key == "target" else "the answer for it"
    return (
        [groups.get(one[key], (-1, "other")) for one in images],
        entries,
        f"Each point is an image, coloured by {what}.",
    )


def _groups_of_numbers(doc: Doc) -> PointGroups:
    """Returns the groups of number targets: five of equal size, by the first number."""
    targets = [one["target"] for one in doc.content["images"]]
    values = [target[0] if isinstance(target, list) else target for target in targets]
    known = sorted(value for value in values if value is not None)
    cuts = [known[(k * len(known)) // BINS] for k in range(1, BINS)] if known else []
    bins = [sum(value >= cut for cut in cuts) if value is not None else -1 for value in values]
    starts = [known[0] if known else 0, *cuts]
    entries = [(k, f"v{k}", f"from {start:.4g}") for k, start in enumerate(starts) if k in bins]
    kinds = [(k, f"v{k}" if k >= 0 else "other") for k in bins]
    return kinds, entries, "Each point is an image, coloured by its target."


def looks_section(doc: Doc) -> str:
    """Returns a few images with the places that raise the answer, before and after."""
    looks = doc.content["looks"]
    if "why_not" in looks:
        return section("looks", "Where the model looks", why_not(looks["why_not"]))
    before = looks.get("before")
    cards = each_drawn(range(len(looks["images"])), lambda k: _look(doc, k, before is not None))
    also = f", and before adaptation at {text(looks['block_before'])}" if before else ""
    missing = why_not(f"before adaptation; {looks['why_no_before']}") if looks.get("why_no_before") else ""
    grain = f"{len(looks['after'][0])} x {len(looks['after'][0][0])}"
    caption = (
        f"Gradient times activation at {text(looks['block'])} ({grain} places){also}. Bright places raise the answer; where they "
        "lie on the background, the model has learnt something about where pictures were taken."
    )
    if before:
        caption += " Before adaptation, the answer is that of ridge regression on the features."
    body = f'<ul class="looks">{cards}</ul>'
    return section(
        "looks", "Where the model looks", figure("Gradient times activation", body, caption, wide=True), missing
    )


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
