"""What tools that look inside a model say of a wrapped one, and of the same one merged: the table in docs/tools.md.

    python -m benchmarks.tools            # every tool that is installed; prints a line for each
    python -m benchmarks.tools thop onnx  # some of them

Of other packages: ``pip install thop ptflops fvcore torchinfo onnxscript onnxruntime torchao captum`` (those that are there).
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import petl

X = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
BATCH: Any = ({0: torch.export.Dim("batch", min=1)},)  # any number of images


def wrapped(name: str) -> Any:
    """A model with LoRA whose change isn't zero, in evaluation mode."""
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model(name), "lora", num_classes=5)
    for parameter in petl.trainable(model).values():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model.eval()


def apart(out: Any, expected: Tensor) -> str:
    return f"largest difference {float((torch.as_tensor(out) - expected).abs().max()):.1e}"


def package(name: str) -> Any:
    """A package that need not be installed."""
    return importlib.import_module(name)


def thop(model: Any, _: Tensor) -> str:
    operations, parameters = package("thop").profile(model, (X[:1],), verbose=False)
    return f"{operations / 1e6:.2f} million operations, {parameters:.0f} parameters"


def ptflops(model: Any, _: Tensor) -> str:
    info = package("ptflops").get_model_complexity_info
    operations, parameters = info(model, (3, 160, 160), as_strings=False, print_per_layer_stat=False, backend="pytorch")
    return f"{operations / 1e6:.2f} million operations, {parameters} parameters"


def torchinfo(model: Any, _: Tensor) -> str:
    found = package("torchinfo").summary(model, input_data=X[:1], verbose=0)
    return f"{found.total_mult_adds / 1e6:.2f} million operations, {found.total_params} parameters"


def fvcore(model: Any, _: Tensor) -> str:
    return f"{package('fvcore.nn').FlopCountAnalysis(model, X[:1]).total() / 1e6:.2f} million operations"


def flop_counter(model: Any, _: Tensor) -> str:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(X[:1])
    return f"{counter.get_total_flops() / 2e6:.2f} million operations"


def state_dict(model: Any, expected: Tensor) -> str:
    plain = timm.create_model(model.pretrained_cfg["architecture"], num_classes=5).eval()
    plain.load_state_dict(model.state_dict())
    return apart(plain(X), expected)


def save_for_hf(model: Any, expected: Tensor) -> str:
    with tempfile.TemporaryDirectory() as folder:
        timm.models.save_for_hf(model, folder)
        return apart(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(X), expected)


def pickled(model: Any, expected: Tensor) -> str:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return apart(torch.load(file, weights_only=False)(X), expected)


def jit_script(model: Any, expected: Tensor) -> str:
    return apart(torch.jit.script(model)(X), expected)


def jit_trace(model: Any, expected: Tensor) -> str:
    traced: Any = torch.jit.trace(model, X, check_trace=False)
    return apart(traced(X), expected)


def export(model: Any, expected: Tensor) -> str:
    return apart(torch.export.export(model, (X,)).module()(X), expected)


def export_any_batch(model: Any, expected: Tensor) -> str:
    program = torch.export.export(model, (X,), dynamic_shapes=BATCH)
    return apart(program.module()(torch.cat([X, X]))[:2], expected)


def compile_graph(model: Any, expected: Tensor) -> str:
    return apart(torch.compile(model, backend="aot_eager")(X), expected)


def onnx(model: Any, expected: Tensor, **options: Any) -> str:
    runtime = package("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(model, (X,), path, **options)
        session = runtime.InferenceSession(path)
        return apart(session.run(None, {session.get_inputs()[0].name: X.numpy()})[0], expected)


def onnx_any_batch(model: Any, expected: Tensor) -> str:
    return onnx(model, expected, dynamo=True, dynamic_shapes=BATCH)


def onnx_without_dynamo(model: Any, expected: Tensor) -> str:
    return onnx(model, expected, dynamo=False)


def fx(model: Any, expected: Tensor) -> str:
    return apart(torch.fx.symbolic_trace(model)(X), expected)


def quantize_dynamic(model: Any, _: Tensor) -> str:
    int8 = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    kept = sum(isinstance(module, nn.Linear) for module in int8.modules())
    return (
        f"{kept} of {sum(isinstance(module, nn.Linear) for module in model.modules())} linear layers left as they were"
    )


def torchao(model: Any, expected: Tensor) -> str:
    torchao = package("torchao.quantization")
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    return apart(model(X), expected)


def prune(model: Any, expected: Tensor) -> str:
    from torch.nn.utils import prune

    layer = next(module for name, module in model.named_modules() if name in ("layer1.0.conv1", "blocks.0.attn.qkv"))
    prune.l1_unstructured(layer, "weight", 0.5)
    return apart(model(X), expected)


def captum(model: Any, _: Tensor) -> str:
    method = package("captum.attr").IntegratedGradients(model)
    return f"sum {float(method.attribute(X[:1], target=1, n_steps=4).sum()):.5f}"


TOOLS: dict[str, Callable[..., str]] = {
    tool.__name__: tool
    for tool in (
        *(state_dict, save_for_hf, pickled, compile_graph, export, export_any_batch, jit_trace, jit_script),
        *(onnx, onnx_without_dynamo, onnx_any_batch, fx, quantize_dynamic, torchao, prune),
        *(thop, ptflops, torchinfo, fvcore, flop_counter, captum),
    )
}


def said(tool: Callable[..., str], model: Any, expected: Tensor) -> str:
    """What came out, or the error in one line; what the tool itself prints is left out."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tool(model, expected)
    except ImportError as error:
        return f"not installed: {error.name}"
    except Exception as error:  # tools raise what they like
        return f"refused: {type(error).__name__}: {' '.join(str(error).split())[:100]}"


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    if unknown := {*sys.argv[1:]} - {*TOOLS}:
        sys.exit(f"{__doc__}\nTools: {', '.join(TOOLS)}. Not among them: {', '.join(sorted(unknown))}")
    for name in sys.argv[1:] or TOOLS:
        for architecture in ("test_resnet", "test_vit"):
            model = wrapped(architecture)
            expected = model(X).detach()
            plain = petl.merge(copy.deepcopy(model)).eval()
            print(f"{name}, {architecture}, wrapped: {said(TOOLS[name], model, expected)}")
            print(f"{name}, {architecture}, merged: {said(TOOLS[name], plain, expected)}")


if __name__ == "__main__":
    main()
