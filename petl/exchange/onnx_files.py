"""A program as an ONNX file: one file with all weights, names for its input and outputs, and texts in its metadata."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import StateError
from petl.exchange.programs import Content

LARGEST = 2_000_000_000  # bytes: protobuf, in which an ONNX file is written, ends at 2 GiB
INPUT = "images"


def refuse_without_onnx() -> None:
    """Raises a StateError where the packages are missing."""
    try:
        import onnx  # noqa: F401  # asked for only whether they are there
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise StateError(
            f'an ONNX file needs onnx, onnxscript and onnxruntime ({error}): pip install "petl-vision[export]", or name a .pt2'
        ) from error


def refuse_large(model: nn.Module) -> None:
    """Raises a StateError for a model that one ONNX file can't hold."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    if size > LARGEST:
        raise StateError(
            f"this {type(model).__name__} has {size / 1e9:.1f} GB of weights, one ONNX file holds {LARGEST / 1e9:.0f} GB; name "
            f"a .pt2 file, which has no limit"
        )


def onnx_content(program: Any, names: Sequence[str], texts: Mapping[str, str]) -> Content:
    """Returns the bytes of an ``.onnx`` file, and what runs them in onnxruntime."""
    import onnxruntime

    try:
        with _quiet(), torch.no_grad():
            made = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=[*names], verbose=False, external_data=False
            )
        proto = made.model_proto  # type: ignore[union-attr]  # dynamo=True returns a program
        _name_sizes(proto)
        for key, text in texts.items():
            entry = proto.metadata_props.add()
            entry.key, entry.value = key, text
        content = proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # torch, onnxscript and onnxruntime raise many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise StateError(
            f"torch.onnx can't write this model ({type(error).__name__}: {lines[0][:300] if lines else ''}); nothing written: "
            f"name a .pt2 file"
        ) from error

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, {INPUT: images.numpy()})]

    return content, run


def _name_sizes(proto: Any) -> None:
    """Calls the first dimension of input and outputs "batch" (and those that vary beside it "height" and "width")."""
    given = [dim.dim_param for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    words = {
        symbol: word for symbol, word in zip(given, ("batch", "", "height", "width"), strict=False) if symbol and word
    }
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in words:
                dim.dim_param = words[dim.dim_param]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporters' progress and warnings aren't shown: what counts is whether the file computes the same."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
