"""Draws the page of a report from its JSON alone: one HTML file with everything in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl.report.answer_sections import answers_section
from petl.report.charts import MAP_HEIGHT, MAP_SCALE, MAP_WIDTH
from petl.report.data_sections import data_section, findings_section
from petl.report.depth_sections import bands_section, collapse_section, depth_section
from petl.report.map_sections import looks_section, maps_section
from petl.report.page_files import GENERATOR
from petl.report.page_parts import Doc, each_drawn, script_json, text
from petl.report.training_sections import cost_section, curves_section

SECTIONS = (
    answers_section,
    data_section,
    findings_section,
    curves_section,
    maps_section,
    depth_section,
    collapse_section,
    bands_section,
    looks_section,
    cost_section,
)
LINKS = (
    ("answers", "Answers"),
    ("data", "Images"),
    ("why", "Why"),
    ("training", "Training"),
    ("maps", "Maps"),
    ("depth", "Depth"),
    ("classes", "Classes"),
    ("bands", "Detail"),
    ("looks", "Looks"),
    ("again", "Cost"),
)


def draw_page(content: Mapping[str, Any]) -> str:
    """Returns the page for what `Report.to_json` gives. The same dict gives the same page.

    Nothing is fetched, and the page's own policy forbids it: only this script runs, pictures are in the page itself. Names of
    files and classes are text, whatever is in them.
    """
    doc = Doc(content)
    here = Path(__file__)
    style, script = (here.with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    body = each_drawn(SECTIONS, lambda draw: draw(doc))
    links = "".join(f'<a href="#{name}">{words}</a>' for name, words in LINKS if f'<section id="{name}"' in body)
    title = text(content["title"])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="generator" content="{GENERATOR} {text(content["petl"])}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n'
        f"{_header(doc)}<nav>{links}</nav>\n<main>\n{body}\n</main>\n"
        f"<footer>Made by petl {text(content['petl'])}. Every number is also in the JSON beside this page.</footer>\n"
        '<div id="tip" role="status" hidden></div>\n'
        f'<script type="application/json" id="numbers">{script_json(_for_script(content))}</script>\n<script>{script}</script>\n'
        "</body>\n</html>\n"
    )


def _header(doc: Doc) -> str:
    tiles = each_drawn(_tiles(doc), lambda tile: f"<li><b>{tile[1]}</b><span>{text(tile[0])}</span></li>")
    said = each_drawn(doc.content["sentences"], lambda line: f"<li>{text(line).replace('+-', '±')}</li>")
    methods = " + ".join(method["name"] for method in doc.get("cost.methods") or [])
    below = f"{doc.content['model']}{f' with {methods}' if methods else ''}"
    reason = doc.content["why_no_before"]
    note = f'<p class="note">There is no “before” on this page: {text(reason)}.</p>' if reason else ""
    return (
        f'<header><h1>{text(doc.content["title"])}</h1><p class="sub">{text(below)}</p><ul class="tiles">{tiles}</ul>'
        f'<ul class="said">{said}</ul>{note}</header>\n'
    )


def _tiles(doc: Doc) -> list[tuple[str, str]]:
    """Returns the few numbers that the page begins with: (what, HTML)."""
    tiles = []
    if doc.get("answers.accuracy") is not None:
        tiles.append(("of the answers are right", doc.with_error("answers.accuracy", "answers.error")))
    else:
        for k, one in enumerate(doc.get("metrics.figures") or []):
            if k and len(tiles) < 2:
                place = f"metrics.figures.{k}"
                tiles.append((one["name"].replace("_", " "), doc.with_error(f"{place}.value", f"{place}.error", "g")))
    last = f"depth.rows.{len(doc.get('depth.rows') or []) - 1}"
    if doc.get(f"{last}.accuracy_before") is not None:
        change = (
            f"{doc.number(f'{last}.accuracy_before', 'percent')} → {doc.number(f'{last}.accuracy_after', 'percent')}"
        )
        tiles.append(("read from the features, before and after", change))
    tiles.append(("images looked at", doc.number("data.images", "count")))
    if doc.get("cost.share") is not None:
        tiles.append(("of the model's numbers are the task's own", doc.number("cost.share", "percent")))
    if doc.get("cost.delta_bytes"):
        tiles.append(("in the delta", doc.number("cost.delta_bytes", "bytes")))
    return tiles


def _for_script(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the page's script needs: the images, and where they are in the maps."""
    maps = {
        name: {when: one["points"] for when, one in content["maps"][name].items()}
        for name in ("pca", "tsne")
        if content["maps"].get(name)
    }
    images = [
        {key: one.get(key) for key in ("file", "picture", "target", "predicted", "confidence")}
        for one in content["images"]
    ]
    names = {"classes": content["classes"], "targets": content["data"]["targets"]}
    worst = content["answers"].get("most_confused")
    return {"images": images, "maps": maps, **names, "worst": worst, "size": [MAP_WIDTH, MAP_HEIGHT, MAP_SCALE]}
