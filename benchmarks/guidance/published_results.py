r"""Makes the table of timm's published results that `petl.rank` breaks ties with.

    python -m benchmarks.guidance.published_results --results pytorch-image-models/results \
        --commit aa4b5850c1543fa488abf260f18390eda46cf85d --date 2026-08-08

``--results`` is the folder ``results`` of a clone of huggingface/pytorch-image-models (Apache-2.0), of that commit; its csv files
are not in timm's wheel. The table has a row for each pretrained tag of the installed timm of which anything is known: top-1 on
ImageNet, on its reassessed labels (real), on ImageNet-R and ImageNet-Sketch, in percent; millions of parameters; and billions of
multiply-adds for an image of the tag's size. Where timm counted these at another size only, they are scaled by area if the
network takes any size. An empty cell isn't known. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
from pathlib import Path
from typing import Any

import timm

from petl.ranking.published import PUBLISHED_COLUMNS, PUBLISHED_TABLE

ACCURACIES = {
    "top1": "results-imagenet.csv",
    "real": "results-imagenet-real.csv",
    "r": "results-imagenet-r.csv",
    "sketch": "results-sketch.csv",
}
COUNTS = "benchmark-infer-amp-*.csv"  # of several versions, at different input sizes; the last one counts


def read(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a csv file of timm's, by model."""
    with path.open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def counted(results: Path) -> dict[str, dict[int, dict[str, str]]]:
    """The rows of timm's benchmarks by architecture and side of the input."""
    found: dict[str, dict[int, dict[str, str]]] = {}
    for path in sorted(results.glob(COUNTS)):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["infer_gmacs"]:
                    found.setdefault(row["model"], {})[int(row["infer_img_size"])] = row
    return found


def row_of(
    tag: str, accuracies: dict[str, dict[str, dict[str, str]]], counts: dict[str, dict[int, dict[str, str]]]
) -> list[str]:
    """The cells of a tag after its name, in the order of `PUBLISHED_COLUMNS`."""
    sides = counts.get(tag.partition(".")[0], {})
    cells = {name: rows[tag]["top1"] for name, rows in accuracies.items() if tag in rows}
    measured = accuracies["top1"].get(tag) or next(iter(sides.values()), None)
    if measured:
        cells["params"] = measured["param_count"]
    cfg: Any = timm.get_pretrained_cfg(tag)
    side = cfg.input_size[-1]
    near = min(sides, key=lambda other: (abs(other - side), other), default=None)
    if near is not None and (near == side or not cfg.fixed_input_size):
        cells["gmacs"] = f"{_number(sides[near]['infer_gmacs']) * (side / near) ** 2:.3g}"
    return ["" if name not in cells else f"{_number(cells[name]):g}" for name in PUBLISHED_COLUMNS[1:]]


def _number(cell: str) -> float:
    return float(cell.replace(",", ""))


def table(results: Path, commit: str, date: str) -> bytes:
    """The compressed table."""
    accuracies = {name: read(results / file) for name, file in ACCURACIES.items()}
    counts = counted(results)
    rows = [[tag, *row_of(tag, accuracies, counts)] for tag in sorted(timm.list_pretrained())]
    text = io.StringIO()
    text.write("# Results of huggingface/pytorch-image-models (results/*.csv), Apache-2.0\n")
    text.write(
        f"# date={date} commit={commit} timm={timm.__version__}; made by benchmarks/guidance/published_results.py\n"
    )
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(PUBLISHED_COLUMNS)
    writer.writerows(row for row in rows if any(row[1:]))
    return gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--date", required=True, help="of the commit")
    parser.add_argument("--out", type=Path, default=PUBLISHED_TABLE)
    args = parser.parse_args()
    contents = table(args.results, args.commit, args.date)
    args.out.write_bytes(contents)
    print(f"wrote {args.out}: {len(contents):,} bytes")


if __name__ == "__main__":
    main()
