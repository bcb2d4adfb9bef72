"""`Report`: every number of a report's page, and where the page and its JSON are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petl.findings import Findings, json_value
from petl.version import __version__


@dataclass(frozen=True, repr=False)
class Report(Findings):
    """What `petl.report` measured. It prints as about ten sentences; ``to_json()`` has all that the page is drawn from.

    Attributes:
        path: The page.
        json_path: The same numbers as JSON.
        content: The parts of the page by name, as plain values: ``images``, ``data``, ``answers``, ``depth`` ...
    """

    path: Path
    json_path: Path
    content: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns the parts of the page as plain values, with ``kind`` and the version of petl, without paths of this machine."""
        return {"kind": "report", "petl": __version__, **json_value(self.content), "sentences": self.sentences()[:-1]}

    def sentences(self) -> list[str]:
        """Returns what the page says, as about ten lines of text."""
        lines = report_sentences(self.content)
        return [*lines, f"The page is {self.path}, and its numbers are in {self.json_path}."]


def report_sentences(content: Mapping[str, Any]) -> list[str]:
    """Returns the sentences that a page begins with."""
    parts = (_data, _twins_told, _answers, _reading, _depth, _collapse, _bands, _maps_told, _cost)
    return [line for part in parts for line in [part(content)] if line]


def _data(content: Mapping[str, Any]) -> str:
    data = content["data"]
    images, of = data["images"], data["of"]
    sample = f" (a sample of {of:,})" if of and of > images else ""
    classes = f" of {data['classes']} classes" if "classes" in data else ""
    bad = data["unreadable_files"]
    left = f"; {bad} file{'s' * (bad != 1)} can't be read" if bad else ""
    size = f"{data['height']} x {data['width']} pixels"
    return f"{images:,} image{'s' * (images != 1)}{classes}{sample}, {size} as {content['model']} takes them{left}."


def _twins_told(content: Mapping[str, Any]) -> str:
    twins = content["data"]["twins"]
    if not twins["equal"] and not twins["near"]:
        return "No image is there twice."
    odd = twins["labels_differ"]
    differ = f", and the labels of {odd} of these pairs differ" if odd else ""
    equal, near = twins["equal"], twins["near"]
    alike = f"{equal} image equals" if equal == 1 else f"{equal} images equal"
    pairs = f"{near} pair is" if near == 1 else f"{near} pairs are"
    return f"{alike} another one, and {pairs} nearly the same{differ}."


def _answers(content: Mapping[str, Any]) -> str:
    answers = content["answers"]
    if "accuracy" in answers:
        worst, names = answers["most_confused"], content["classes"]
        mixed = ""
        if worst:
            is_class, said, count = worst
            images = f"{count} image{'s' * (count != 1)}"
            mixed = (
                f"; what is taken wrongly most often is {_name(names, is_class)} for {_name(names, said)} ({images})"
            )
        return (
            f"{_share(answers['accuracy'], answers['error'])} of the answers by {answers['by']} are right, "
            f"{answers['wrong_images']} of {content['data']['images']} are wrong{mixed}."
        )
    figures = content["metrics"].get("figures") or []
    told = [f"{one['name'].replace('_', ' ')} {one['value']:.4g}" for one in figures[1:4] if one["value"] is not None]
    return f"Measured on these images: {', '.join(told)}." if told else ""


def _share(value: float, error: float | None) -> str:
    """Returns a share with its standard error, which few images don't have."""
    return f"{value:.1%}" if error is None else f"{value:.1%} +- {error:.1%}"


def _name(names: list[str], number: int) -> str:
    return names[number] if number < len(names) else str(number)


def _reading(content: Mapping[str, Any]) -> str:
    row = (content["depth"].get("rows") or [{}])[-1]
    after = row.get("accuracy_after")
    if after is None:
        return ""
    before = row.get("accuracy_before")
    start = f"{_share(before, row['error_before'])} before adaptation and " if before is not None else ""
    return f"A leave-one-out reading of the features is right for {start}{_share(after, row['error_after'])} now."


def _depth(content: Mapping[str, Any]) -> str:
    rows = [row for row in content["depth"].get("rows") or [] if row.get("cka") is not None]
    if len(rows) < 2:
        return f"Unbiased CKA with the model before is {rows[0]['cka']:.3f} at the classifier's input." if rows else ""
    least = min(rows, key=lambda row: row["cka"])
    where = f"; it is least at {least['block']} ({least['cka']:.3f})" if least["cka"] < rows[-1]["cka"] - 0.001 else ""
    return (
        f"Unbiased CKA with the model before is {rows[0]['cka']:.3f} at the first block and {rows[-1]['cka']:.3f} at the "
        f"end{where}. Shuffled images give {content['depth']['cka_shuffled']:.3f}."
    )


def _collapse(content: Mapping[str, Any]) -> str:
    collapse = content["collapse"]
    if "after" not in collapse or collapse["after"]["nc1"] is None:
        return ""
    now, before = collapse["after"], collapse.get("before")
    if before is None or before["nc1"] is None:
        return f"Spread inside classes against between them (NC1) is {now['nc1']:.3g}."
    if now["nc1"] == before["nc1"]:
        return f"Classes are as tight as before: NC1, the spread inside against between them, is {now['nc1']:.3g}."
    turn = "tighter" if now["nc1"] < before["nc1"] else "looser"
    change = f"went from {before['nc1']:.3g} to {now['nc1']:.3g}"
    return f"Classes are {turn} than before: NC1, the spread inside against between them, {change}."


def _bands(content: Mapping[str, Any]) -> str:
    rows = [row for row in content["bands"].get("rows") or [] if row.get("change_after") is not None]
    if not rows:
        return ""
    most = max(rows, key=lambda row: row["change_after"])
    top = "more" if most["to"] is None else f"{most['to']:.3g}"
    return (
        f"Features move most without detail of {most['from']:.3g} to {top} cycles per image side: by {most['change_after']:.2f} "
        "of their spread."
    )


def _maps_told(content: Mapping[str, Any]) -> str:
    maps = content["maps"]
    told = [
        f"{maps[name]['after']['trustworthiness']:.3f} ({words})"
        for name, words in (("pca", "PCA"), ("tsne", "t-SNE"))
        if maps.get(name) and maps[name]["after"]["trustworthiness"] is not None
    ]
    return f"Neighbours in the maps can be trusted to {' and '.join(told)}, where 1 is wholly." if told else ""


def _cost(content: Mapping[str, Any]) -> str:
    cost = content["cost"]
    if "trained" not in cost:
        return ""
    size = f"; the delta has {cost['delta_bytes']:,} bytes" if cost.get("delta_bytes") else ""
    time = f", trained in {cost['seconds']:.0f} s" if cost.get("seconds") else ""
    return (
        f"{cost['trained']:,} of {cost['parameters']:,} numbers are the task's own ({cost['share']:.2%}){size}{time}."
    )
