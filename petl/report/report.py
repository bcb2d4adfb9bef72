"""`report` measures a model on images and draws one page that shows it all, with every number in a JSON file beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from petl.data.inputs import Data
from petl.data.pairs import Keys
from petl.data.replacements import marking_unreadable
from petl.data.samples import refuse_sample
from petl.delta.file import as_path
from petl.errors import StateError
from petl.extraction.accelerator import private_accelerator, progress_bar
from petl.extraction.classifier_inputs import classifier_modules
from petl.extraction.features import model_name
from petl.extraction.image_batches import refuse_keys_of_images
from petl.extraction.undisturbed import undisturbed
from petl.format.outputs import label_texts
from petl.prediction.predict import is_first_rank
from petl.report.before import before_of, model_before
from petl.report.cost_facts import cost_facts, reproduce_facts
from petl.report.figures import curve_facts, history_of, metric_facts
from petl.report.findings_facts import findings_facts
from petl.report.images import ReportImages, read_images
from petl.report.measured import Measured, measure_report, significant
from petl.report.model_passes import ReportModel
from petl.report.page import draw_page
from petl.report.page_files import report_paths, write_report
from petl.report.result import Report
from petl.training.run_settings import DATA_BOUNDS
from petl.training.setting_checks import refuse_number
from petl.wrapping.lookup import bare


def report(
    model: nn.Module,
    data: Data,
    path: str | Path,
    *,
    base: bool | nn.Module = True,
    findings: Any = None,
    history: Any = None,
    delta: str | Path | None = None,
    images: int = 500,
    seed: int = 0,
    title: str | None = None,
    about: str | None = None,
    head: bool | str | Sequence[str] = True,
    split: str | None = None,
    labels: Sequence[str] | None = None,
    keys: Keys | str | int | None = None,
    batch_size: int = 64,
    workers: int = 0,
    strict: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Report:
    """Measures a model on images and writes one HTML page that shows how it does and why, beside a JSON with all its numbers.

    The page needs no network and no other file. It has the data and what is there twice, what petl's other guidance found, the
    learning curves, the confusion matrix with the images behind each cell, the most confident mistakes, maps of the features,
    how far each block has moved and what can be read from it, neural collapse, bands of frequencies, where the model looks, what
    the delta costs, and how to make it again; each before and after adaptation. What doesn't apply to a model or to
    targets is left out, and the page says why. The model, its modes and random generators are afterwards as before.

    Args:
        model: Any model of images, wrapped or not.
        data: What `petl.features` takes: a folder or table (its ``val`` where it has one), a Dataset, a loader; also without
            labels. Images that the model wasn't trained on say most.
        path: The page to write, such as "pets.html"; the numbers go to "pets.json". Earlier reports are replaced, other files
            only with ``overwrite=True``.
        base: What to compare with: True is the backbone before adaptation, a copy of the model with the delta taken off; False
            is nothing; or a model.
        findings: What `petl.rank`, `petl.advise`, `petl.compare` and `petl.shift` returned, their JSON files, or a folder
            of these, to be shown on the page.
        history: What `petl.fit` returned, or its ``.history.json``; else that beside ``delta``.
        delta: The model's delta file, or its address, for its size, its training's history and the lines that load it again.
        images: At most so many images, as `petl.data.sample` chooses them with this ``seed``: every class in its share. They are
            held in memory: 55 MB for 500 at 96 pixels, 301 MB at 224.
        title, about: The page's heading, and a few words about the data.
        head: The names of the classifier's modules, as for `petl.wrap`.
        split: The part of a folder or table to read, such as "train".
        labels: Names of the classes in the order of their numbers, as for `petl.features`.
        keys: The names or numbers of images and labels, as for `petl.fit`.
        strict: An error if a file can't be read; without it such files are named on the page.

    Equal calls on one machine write equal files. The measures are in `petl.measures`, each with the source of its formula.

    Raises:
        StateError: ``path`` can't be written, or another file is there. DataError: the data is empty or doesn't fit the model.

    >>> import petl, timm, torch, tempfile
    >>> images = torch.utils.data.TensorDataset(torch.randn(12, 3, 64, 64), torch.arange(12) % 2)
    >>> model = petl.wrap(timm.create_model("test_resnet"), "norm", num_classes=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = petl.report(model, images, f"{folder}/page.html")
    ...     found.path.name, found.json_path.name, found.to_json()["data"]["images"]
    ('page.html', 'page.json', 12)
    """
    page, beside = report_paths(path, overwrite=overwrite)
    refuse_sample(images, seed)
    for setting, value in {"batch_size": batch_size, "workers": workers}.items():
        refuse_number(setting, value, DATA_BOUNDS[setting])
    file, told = _delta_file(delta), about or _about(data)
    found, (past, run) = findings_facts(findings), history_of(history, file)
    reading = {"images": int(images), "seed": int(seed), "split": split, "labels": label_texts(labels)}
    reading |= {"keys": refuse_keys_of_images(keys), "strict": strict}
    reading |= {"batch_size": int(batch_size), "workers": int(workers)}
    read, measured, why = _measure(bare(model), data, base, head, told, reading, progress)
    name, own = model_name(bare(model)), measured.answers_itself
    content: dict[str, Any] = {
        "title": title or f"{name.split('.')[0]} on {told}",
        "model": name,
        "why_no_before": why,
        **measured.parts,
        "metrics": significant(metric_facts(model, read, own, int(batch_size))),
        "findings": found,
        "curves": significant(curve_facts(past)),
        "cost": significant(cost_facts(model, file, past)),
        "reproduce": reproduce_facts(model, told, {"base": base, "images": images, "seed": seed}, file, run),
    }
    return _written(Report(page, beside, content))


def _written(made: Report) -> Report:
    """Returns the report, after its files are written."""
    if is_first_rank():
        content = made.to_json()
        write_report(made.path, made.json_path, draw_page(content), content)
    return made


def _measure(
    plain: nn.Module, data: Any, base: Any, head: Any, about: str, options: dict[str, Any], progress: bool
) -> tuple[ReportImages, Measured, str]:
    """Returns the images, what was measured of them, and why there is nothing to compare with, if that is so."""
    former, why = model_before(plain, base)
    batch_size, seed = options["batch_size"], options["seed"]
    with (
        marking_unreadable(data),
        private_accelerator(None) as accelerator,
        undisturbed(plain, data),
        progress_bar(accelerator, progress) as shown,
    ):
        task = shown.add_task("report", total=None, note="")

        def each() -> None:
            shown.advance(task)

        names = classifier_modules(plain, head)
        read = read_images(data, plain, each=each, **options)
        plain.to(accelerator.device)
        asked = ReportModel(plain, names, accelerator.device, batch_size)
        with _undisturbed_base(former, base):
            before, other = before_of(former, read, asked, head, each)
            measured = measure_report(asked, read, before, about, seed, each)
    return read, measured, why or other


def _undisturbed_base(former: nn.Module | None, base: Any) -> Any:
    """Returns a context in which a model of the caller's may run, and which leaves it as it was."""
    return undisturbed(former, None) if former is not None and isinstance(base, nn.Module) else contextlib.nullcontext()


def _delta_file(delta: Any) -> Path | None:
    if delta is None:
        return None
    file = as_path(delta) if isinstance(delta, (str, Path)) and delta != "" else None
    if file is None or not file.is_file():
        raise StateError(
            f"delta={str(delta)!r} is no file; give the model's delta, such as 'pets.safetensors', or leave it out"
        )
    return file


def _about(data: Any) -> str:
    """Returns a few words for the data: the last parts of its path, or what kind of thing it is."""
    if isinstance(data, (str, Path)):
        return Path(data).resolve().name or str(data)
    named = getattr(data, "__name__", None) or type(data).__name__
    return f"a {named}"
