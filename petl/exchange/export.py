"""export: writes a model as an ONNX file or as a program of torch.export, with its labels and its input pipeline."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from petl.data.pipelines import pipeline
from petl.delta.file import Paths, path_to_write
from petl.delta.load import load
from petl.errors import DeltaError, StateError
from petl.exchange.exportable import OUTPUT_NAMES, AnsweringModel, answering, exportable_copy
from petl.exchange.exported import Exported
from petl.exchange.kept_texts import kept_texts
from petl.exchange.onnx_files import onnx_content, refuse_large, refuse_without_onnx
from petl.exchange.peft_trial import largest_difference
from petl.exchange.programs import as_program, program_content
from petl.extraction.undisturbed import undisturbed
from petl.format.atomic_files import open_atomically
from petl.prediction.meaning import description_of
from petl.version import __version__
from petl.wrapping.lookup import record

EXPORT_TOLERANCE = 1e-4  # of the largest output: another runtime adds up in another order
BATCHES = (1, 3)  # that the file is tried with before it is put in place
RunsFile = Callable[[Tensor], list[Tensor]]


@torch.inference_mode(False)
def export(
    model: nn.Module | Paths,
    path: Paths,
    *,
    probabilities: bool = False,
    labels: Iterable[Any] | None = None,
    size: int | tuple[int, int] | None = None,
    fixed_size: bool = True,
) -> Exported:
    """Writes a model with all its changes as an ONNX file (``.onnx``) or as a program of torch.export (``.pt2``).

    Changes of weights are folded in; adapters and other layers stay layers. The file takes float32 images [batch, channels,
    height, width], as the input pipeline makes them, for any number of images in a batch. Before it is put in place,
    onnxruntime (or torch) runs it on 1 and on 3 images, and its outputs are compared with the model's. Labels, task, temperature,
    pipeline and more are in its metadata, each as JSON.

    Args:
        model: wrapped, merged or plain; it stays as it is. Or the path of a delta, which is put onto the backbone that it names.
        path: of the file, which appears whole or not at all.
        probabilities: answers are probabilities, with the fitted temperature if there is one; otherwise the model's own outputs
            (logits), and the temperature is in the metadata.
        labels: class names in the order of the outputs; by default the model's or the delta's own.
        size: side of the images, or (height, width). [the pipeline's]
        fixed_size: height and width are always these; False lets them vary, where the model can do that.

    Returns:
        What was written: sizes, names, the largest difference of outputs, seconds.

    Raises:
        StateError: the model can't be exported; or the file would compute something else. Nothing is written.
        DeltaError: the path can't be written, or the delta can't be loaded.

    >>> import petl, timm, tempfile, os
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = petl.export(model, os.path.join(folder, "pets.pt2"), labels=["cat", "dog", "eel"])
    ...     program = torch.export.load(written.path).module()
    >>> program(torch.randn(5, 3, 160, 160)).shape
    torch.Size([5, 3])
    """
    began, place = time.perf_counter(), _destination(path)
    source = load(model) if isinstance(model, (str, os.PathLike)) else model
    network, kept = exportable_copy(source)
    if place.suffix == ".onnx":
        refuse_large(network)
    said, config = description_of(source, labels=_listed(labels)), pipeline(source, size=size)
    answers = answering(network, said["task"], said["temperature"], probabilities=probabilities)
    images = torch.randn(max(BATCHES), *config["input_size"], generator=torch.Generator().manual_seed(0))
    names = _output_names(answers, images, said, probabilities)
    texts = _texts(source, {**said, "pipeline": config}, names)
    with undisturbed(answers, None):
        program = as_program(answers, images[:2], fixed_size=fixed_size)
        make = onnx_content if place.suffix == ".onnx" else program_content
        content, run = make(program, names, texts)
        gap, scale = _tried(answers, run, images, fixed_size)
    _refuse_difference(network, gap, scale)
    with open_atomically(place) as file:
        file.write(content)
    channels, *sides = config["input_size"]
    shape = ["batch", channels, *(sides if fixed_size else ("height", "width"))]
    took = time.perf_counter() - began
    return Exported(str(place), len(content), shape, names, kept, gap, scale, sorted(texts), took)


def _refuse_difference(network: nn.Module, gap: float, scale: float) -> None:
    if not gap <= EXPORT_TOLERANCE * max(scale, 1e-6):
        raise StateError(
            f"the exported model computes something else than this {type(network).__name__} (off by {gap:.2g} where outputs "
            f"reach {scale:.2g}); nothing was written: try the other kind of file (.onnx, .pt2)"
        )


def _destination(path: Paths) -> Path:
    """Returns the path of the file, or raises an error where no such file can be written."""
    place = path_to_write(path)
    if place.suffix not in (".onnx", ".pt2"):
        raise DeltaError(f"{place}: the ending says which file to write; name one that ends with .onnx or .pt2")
    if not place.resolve().parent.is_dir():
        raise DeltaError(f"can't write {place}: {place.resolve().parent} is not a folder; make it first")
    if place.is_dir():
        raise DeltaError(f"{place} is a folder; name a file")
    if place.suffix == ".onnx":
        refuse_without_onnx()
    return place


def _listed(labels: Iterable[Any] | None) -> list[Any] | None:
    return None if labels is None else [*labels]


def _output_names(answers: AnsweringModel, images: Tensor, said: Mapping[str, Any], probabilities: bool) -> list[str]:
    """Returns a name for each output, from one pass of the model; raises a StateError where the model doesn't take the images."""
    try:
        with undisturbed(answers, None), torch.no_grad():
            outputs = [leaf for leaf in tree_leaves(answers(images[:2])) if isinstance(leaf, Tensor)]
    except Exception as error:  # any model's code runs here
        raise StateError(
            f"this {type(answers.model).__name__} doesn't take images of {tuple(images.shape[1:])} ({error!r:.200}); give size="
        ) from error
    if len(outputs) != 1:
        return [f"output_{number}" for number in range(len(outputs))]
    _refuse_labels(said["labels"], outputs[0])
    return ["probabilities" if probabilities else OUTPUT_NAMES.get(said["task"] or "", "logits")]


def _refuse_labels(labels: Sequence[str] | None, outputs: Tensor) -> None:
    if labels is not None and outputs.ndim == 2 and len(labels) != outputs.shape[1]:
        raise DeltaError(f"{len(labels)} labels for {outputs.shape[1]} outputs; give one for each")


def _texts(model: nn.Module, header: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Returns the metadata, all of it texts of JSON."""
    import json

    wrapped = record(model)
    known = {"backbone": wrapped.backbone if wrapped else None, "results": wrapped.results if wrapped else None}
    more = {**known, "outputs": [*names], "petl": __version__}
    return {**kept_texts(header), **{key: json.dumps(value) for key, value in more.items() if value is not None}}


def _tried(answers: AnsweringModel, run: RunsFile, images: Tensor, fixed_size: bool) -> tuple[float, float]:
    """Returns the largest difference between what the file and the model answer, and the largest answer."""
    batches = [images[:count] for count in BATCHES]
    if not fixed_size:
        height, width = images.shape[2:]
        batches.append(torch.nn.functional.interpolate(images[:1], (height + 32, width + 64)))
    gaps = []
    for batch in batches:
        try:
            with torch.no_grad():
                wanted = [leaf for leaf in tree_leaves(answers(batch)) if isinstance(leaf, Tensor)]
            gaps.append(largest_difference(wanted, run(batch)))
        except Exception as error:  # any model's code runs here, and another runtime
            raise StateError(
                f"the model or its file doesn't take images of {tuple(batch.shape)} ({error!r:.200}); nothing was written"
                f"{'' if fixed_size else ': leave out fixed_size=False, which not every model can do'}"
            ) from error
    return max(gap for gap, _ in gaps), max(scale for _, scale in gaps)
