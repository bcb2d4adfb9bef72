"""What petl's other guidance found, for a report: sentences and tables out of the JSON that each verb gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petl.errors import DataError, listing
from petl.findings import Findings, json_value
from petl.format.texts import parsed_json

FOUND_KINDS = {
    "ranking": "Which backbone",
    "advice": "Which method, and whether pretraining helps",
    "comparison": "Methods compared",
    "shift": "What has changed in new images",
    "correction": "What was corrected",
}
MOST_ROWS, MOST_COLUMNS, MOST_WORDS = 30, 9, 400  # of a table; characters of a text
NOT_TOLD = ("kind", "petl", "sentences")


def findings_facts(found: Any) -> list[dict[str, Any]]:
    """Returns for each finding its kind, title, sentences, single values ``facts`` and ``tables``, in the order of the work.

    ``found`` is what a verb returned, its ``to_json``, the path of a JSON file, a folder of them, or several of these.

    Raises:
        DataError: a file that is named can't be read or holds none of these; a value is none of them.
    """
    dicts = _dicts(found)
    order = list(FOUND_KINDS)
    return [_shown(one) for one in sorted(dicts, key=lambda one: order.index(str(one["kind"])))]


def _dicts(found: Any) -> list[Mapping[str, Any]]:
    if found is None:
        return []
    if isinstance(found, Findings):
        return _known({**found.to_json(), "sentences": found.sentences()}, f"a {type(found).__name__}")
    if isinstance(found, Mapping):
        return _known(found, "a dict")
    if isinstance(found, (str, Path)):
        return _of_path(Path(found))
    if isinstance(found, Sequence):
        return [one for part in found for one in _dicts(part)]
    raise DataError(
        f"findings holds a {type(found).__name__}; expected what petl.advise and others return, or JSON files"
    )


def _known(content: Any, what: str) -> list[Mapping[str, Any]]:
    kind = content.get("kind") if isinstance(content, Mapping) else None
    if kind not in FOUND_KINDS:
        raise DataError(
            f"{what} is of kind {kind!r}; expected one of {listing(FOUND_KINDS)}: what petl.rank and others give"
        )
    return [content]


def _of_path(path: Path) -> list[Mapping[str, Any]]:
    """Returns what a file holds; of a folder, all JSON files of these kinds (others are no fault)."""
    if path.is_dir():
        contents = [_content(file, strict=False) for file in sorted(path.glob("*.json"))]
        return [one for one in contents if isinstance(one, Mapping) and one.get("kind") in FOUND_KINDS]
    return _known(_content(path, strict=True), str(path))


def _content(path: Path, *, strict: bool) -> Any:
    try:
        return parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if strict:
            raise DataError(f"{path} can't be read as JSON ({error}); expected what --out FILE.json wrote") from error
        return None


def _shown(content: Mapping[str, Any]) -> dict[str, Any]:
    plain = json_value(content)
    kind, facts, tables = str(plain["kind"]), [], []
    for key, value in plain.items():
        if key in NOT_TOLD:
            continue
        found, rows = _parts(_words(key), value)
        facts += found
        tables += rows
    said = plain.get("sentences")
    sentences = [_text(line) for line in said if isinstance(line, str)] if isinstance(said, list) else []
    return {"kind": kind, "title": FOUND_KINDS[kind], "sentences": sentences, "facts": facts, "tables": tables}


def _parts(name: str, value: Any) -> tuple[list[list[Any]], list[dict[str, Any]]]:
    """Returns what a field is on a page: single values (name, value), and tables."""
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return [], [_table(name, value)]
    if isinstance(value, Mapping):
        if value and all(isinstance(row, Mapping) for row in value.values()):
            return [], [_table(name, [{"": key, **row} for key, row in value.items()])]
        single = [[f"{name}: {_words(str(key))}", _value(one)] for key, one in value.items() if _is_single(one)]
        return single[:MOST_ROWS], []
    return ([[name, _value(value)]] if _is_single(value) else []), []


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = [
        key for key in dict.fromkeys(key for row in rows for key in row) if any(_is_single(r.get(key)) for r in rows)
    ]
    columns = columns[:MOST_COLUMNS]
    cells = [[_value(row.get(column)) for column in columns] for row in rows[:MOST_ROWS]]
    return {"title": title, "columns": [_words(column) for column in columns], "rows": cells, "of": len(rows)}


def _is_single(value: Any) -> bool:
    """Returns whether a value fits into a cell: a number, a text, or a few of these."""
    if isinstance(value, list):
        return 0 < len(value) <= 6 and all(isinstance(one, (int, float, str)) for one in value)
    return value is not None and not isinstance(value, Mapping)


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(f"{one:.4g}" if isinstance(one, float) else _text(str(one)) for one in value)
    return _text(value) if isinstance(value, str) else None if isinstance(value, Mapping) else value


def _text(text: str) -> str:
    return text if len(text) <= MOST_WORDS else f"{text[:MOST_WORDS]} ..."


def _words(key: str) -> str:
    """Returns a field's name as words.

    >>> _words("delta_bytes")
    'delta bytes'
    """
    return key.replace("_", " ")
