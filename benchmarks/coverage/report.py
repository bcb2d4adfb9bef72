"""The page of results: totals, families, what is not applicable and why, every exception."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.coverage import index
from benchmarks.coverage.inapplicable import inapplicable
from benchmarks.coverage.markdown import grouped, plain, row, table
from benchmarks.coverage.plan import COLUMNS, GRAPHS, RIVALS
from benchmarks.coverage.run import RAN, Line, Results

TITLES = {
    "shapes": "Shapes: every architecture",
    "real": "Real: the smallest architecture of each signature",
    "every": "Real: every architecture up to 100 million parameters",
    "sample": "The sample of continuous integration",
}
OTHERS = ("graphs", "rival")  # with sections of their own
MOST = 300  # exceptions that are listed one by one
START, END = "<!-- coverage -->", "<!-- end of coverage -->"


def write(folder: Path, page: Path) -> None:
    """Write the page, and the totals into README.md beside the folder docs/ if it has a place for them."""
    lines = {depth: [*Results(folder / f"{depth}.jsonl").read().values()] for depth in (*TITLES, *OTHERS)}
    count = len(index.load(Path(__file__).parents[1] / "results" / "coverage" / "architectures.jsonl"))
    page.write_text("\n".join(_page({depth: found for depth, found in lines.items() if found}, count)))
    readme = page.parent.parent / "README.md"
    if readme.exists() and START in (text := readme.read_text()):
        inside = "\n".join(_totals({depth: found for depth, found in lines.items() if depth in TITLES and found}))
        readme.write_text(re.sub(f"{START}.*{END}", lambda _: f"{START}\n{inside}\n{END}", text, flags=re.DOTALL))


def _introduction(count: int) -> Iterable[str]:
    """What the page is made of, and with which versions."""
    import timm
    import torch

    yield from (
        "# Every architecture of timm",
        "",
        "`python -m benchmarks.coverage --report docs/timm.md` writes this page from the lines in `benchmarks/results/coverage`:",
        f"timm {timm.__version__} ({count} architectures), torch {torch.__version__.split('+')[0]}. A pair is one architecture",
        "with one method. A pair passes if every point of the contract that applies to it holds; bit-equal means bit-equal.",
        "`lora-depthwise` is LoRA on every layer, `lora-qv` is LoRA on the query and value projections alone.",
        "",
    )


def _page(lines: dict[str, list[Line]], count: int) -> Iterable[str]:
    ours = {depth: found for depth, found in lines.items() if depth in TITLES}
    yield from _introduction(count)
    yield from _totals(ours)
    yield from (
        "",
        "*Shapes* wraps, runs and unwraps each model on the meta device, and checks the head, the keys and the tensors to save.",
        "*Real* and *every* run `petl.check`: the output after `wrap`, gradients, three steps, copies, reload, merge and unwrap.",
        "Pairs that reached their limit of time or memory count as not run.",
        "",
    )
    for depth, found in ours.items():
        yield from (f"## {TITLES[depth]}", "", *_columns(found), "")
    for depth in ("shapes", "real"):
        if depth in lines:
            yield from (f"## Families: {depth}", "", *_families(lines[depth]), "")
    yield from ("## Not applicable", "", *inapplicable(ours), "")
    if "shapes" in lines:
        yield from ("## What LoRA on every layer leaves alone", "", *_left(lines["shapes"]), "")
    if "graphs" in lines:
        yield from ("## torch.compile and torch.export", "", *_graphs(lines["graphs"]), "")
    yield from ("## Exceptions", "", *_exceptions({k: found for k, found in lines.items() if k != "rival"}), "")
    if "rival" in lines:
        yield from ("## peft on the sample", "", *_rival(lines["rival"]), "")


def _totals(lines: dict[str, list[Line]]) -> Iterable[str]:
    yield from table(
        ("depth", "architectures", "pairs", "pass", "not applicable", "fail", "not run", "hours of one core")
    )
    for depth, found in lines.items():
        hours = sum(line.get("s", 0) for line in found) / 3600
        names = len({line["architecture"] for line in found})
        yield row(depth, names, len(found), *_counts(found), f"{hours:.1f}")


def _counts(found: Iterable[Line]) -> tuple[int, int, int, int]:
    """Lines that passed, don't apply, failed, were not run to their end."""
    seen = Counter(line["status"] for line in found)
    return seen["pass"], seen["n/a"], seen["fail"], sum(n for status, n in seen.items() if status not in RAN)


def _columns(found: list[Line]) -> Iterable[str]:
    yield from table(("method", "pass", "not applicable", "fail", "not run", "seconds to wrap, median"))
    for name, lines in sorted(grouped(found, lambda line: line.get("used") or line["method"]).items(), key=_as_ordered):
        took = sorted(line["wrap_s"] for line in lines if "wrap_s" in line)
        yield row(f"`{name}`", *_counts(lines), took[len(took) // 2] if took else "")


def _as_ordered(entry: tuple[str, Any]) -> tuple[int, str]:
    names = [*COLUMNS]
    return (names.index(entry[0]) if entry[0] in names else len(names), entry[0])


def _families(found: list[Line]) -> Iterable[str]:
    """Passes of the pairs that apply: one number where all of them pass."""
    yield "Architectures that pass, per method; `p/n` if only `p` of the `n` applicable ones pass, a dash if none is applicable."
    yield ""
    yield from table(("family", "architectures", *COLUMNS))
    for name, lines in sorted(grouped(found, lambda line: index.family(line["architecture"])).items()):
        cells = [_cell([line for line in lines if line["method"] == column]) for column in COLUMNS]
        yield row(name, len({line["architecture"] for line in lines}), *cells)


def _cell(lines: list[Line]) -> str:
    good, inapplicable, *_ = _counts(lines)
    rest = len(lines) - inapplicable
    return "-" if not rest else str(good) if good == rest else f"{good}/{rest}"


def _left(found: list[Line]) -> Iterable[str]:
    """Kinds of matrices without a LoRA, by the number of architectures that have them."""
    kinds: Counter[str] = Counter(kind for line in found for kind in line.get("left", {}))
    yield "LoRA adapts no tensor of this list: tensors of two and more dimensions outside the classifier, mostly position"
    yield "embeddings and attention biases. The number is that of the architectures with such a tensor."
    yield ""
    yield ", ".join(f"`{kind}` {number}" for kind, number in kinds.most_common()) or "none"


def _exceptions(lines: dict[str, list[Line]]) -> Iterable[str]:
    """Every pair that failed or wasn't run, with what was seen."""
    bad = [(depth, line) for depth, found in lines.items() for line in found if line["status"] not in ("pass", "n/a")]
    if not bad:
        yield "None."
        return
    yield from table(("depth", "architecture", "method", "status", "what was seen"))
    for depth, line in bad[:MOST]:
        seen = {k: v for k, v in line.get("points", {}).items() if not v.startswith("n/a")}
        why = line.get("reason") or "; ".join(f"{point}: {text}" for point, text in seen.items())
        yield row(depth, line["architecture"], f"`{line['method']}`", line["status"], plain(why))
    if len(bad) > MOST:
        yield f"\nand {len(bad) - MOST} more in the JSON lines."


def _graphs(found: list[Line]) -> Iterable[str]:
    """How many architectures each takes, bare and wrapped, and what the bare ones fail at."""
    yield '`compile` is `torch.compile(fullgraph=True, backend="eager")`: only dynamo, which must find no graph break, in'
    yield "training with a backward and in evaluation. `export` is `torch.export.export`. The wrapped models have a trained"
    yield "LoRA on every layer and a trained input adapter. Outputs are compared with those in eager mode; the largest"
    yield "distance is in standard deviations of the output."
    yield ""
    yield from table(("", "architectures", "bare", "wrapped", "not run", "largest distance, bare", "wrapped"))
    for column in GRAPHS:
        lines = [line for line in found if line["method"] == column]
        good, _, bad, skipped = _counts(lines)
        gaps = (f"{max((line[key] for line in lines if key in line), default=0):.1g}" for key in ("bare_gap", "gap"))
        yield row(f"`{column}`", len(lines), good + bad, good, skipped, *gaps)
    refused = [line for line in found if line["status"] == "n/a"]
    if refused:
        yield from ("", *table(("architecture", "what", "what the bare model fails at")))
    yield from (row(line["architecture"], f"`{line['method']}`", plain(line["reason"])) for line in refused)


def _rival(found: list[Line]) -> Iterable[str]:
    yield "This is peft's own LoRA of rank 4, judged by the same points; the output of a merged model may differ by a thousandth"
    yield "of the output's standard deviation. Running statistics that changed count as drift, and are restored before reload and"
    yield "merge are judged."
    yield ""
    points = ("injection", "gradients", "drift", "reload", "merge")
    yield from table(
        ("adapted", "architectures", "all right", "all right but drift", *(f"fails: {point}" for point in points))
    )
    for rival in RIVALS:
        lines = [line for line in found if line["method"] == rival]
        ran = [line for line in lines if line["status"] in RAN]
        failed = [{*line.get("points", {})} | ({"injection"} if "reason" in line else set()) for line in ran]
        cells = (sum(point in one for one in failed) for point in points)
        yield row(rival, len(ran), sum(not f for f in failed), sum(not f - {"drift"} for f in failed), *cells)
