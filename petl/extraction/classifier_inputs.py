"""Finds a model's classifier, and captures the vector that it takes of each image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves

from petl.data.logits import describe_output, logits
from petl.errors import SiteError, listing, near
from petl.extraction.pooling import pooled
from petl.graft.kinds import Graft
from petl.sites.names import joined
from petl.sites.survey import classifier_names, survey_model
from petl.wrapping.head import head_option, probable_classifier
from petl.wrapping.lookup import bare, wrapped_inside
from petl.wrapping.snapshot import RECORD

EMBEDDINGS = ("image_embeds", "pooler_output")  # in the outputs of transformers' encoders


def classifier_modules(model: nn.Module, head: Any = True) -> list[str]:
    """Returns the names of the classifier's modules; [] where the model has none, so that its output is the features.

    ``head`` is as in `petl.wrap`: True asks the record of a wrapped model, or timm.

    Raises:
        SiteError: petl can't know which modules these are, or there are none of these names. MethodError: ``head`` can't be.
    """
    plain, option = bare(model), head_option(head)
    names = [] if option is False else _known_classifier(plain) if option is True else _named(plain, option)
    return [single for name in names for single in _called(plain, name)]


def _called(model: nn.Module, name: str) -> list[str]:
    """Returns the name, or for a list of modules, which isn't called itself, the names in it (crossvit's two classifiers)."""
    module = model.get_submodule(name)
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return [name]
    return [inner for child, _ in module.named_children() for inner in _called(model, joined(name, child))]


def _named(model: nn.Module, option: str | tuple[str, ...]) -> list[str]:
    """Returns the names that the user gave, if the model has such modules."""
    names = [option] if isinstance(option, str) else list(option)
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules or not name:
            raise SiteError(
                f"head={name!r}: {type(model).__name__} has no such module{near(name, [n for n in modules if n])}"
            )
    return names


def _known_classifier(model: nn.Module) -> list[str]:
    """Returns the classifier's modules by the record of a wrapped model, or by timm's ``reset_classifier``."""
    wrapped = wrapped_inside(model)
    if len(wrapped) == 1:
        ((place, inner),) = wrapped.items()
        record = vars(inner)[RECORD]
        if record.classifier:
            return [joined(place, name) for name in record.classifier]
        if not place:
            return []  # an encoder alone, as it was wrapped
    try:
        names = classifier_names(model)
    except Exception as error:  # any model's own code may run here
        raise SiteError(
            _unknown(model, f", and its reset_classifier fails ({type(error).__name__}: {error})")
        ) from error
    if names is None:
        raise SiteError(_unknown(model, " (no reset_classifier to ask)"))
    return names


def _unknown(model: nn.Module, why: str) -> str:
    return (
        f"petl can't know which module of {type(model).__name__} is the classifier{why}; name it: "
        f"head={probable_classifier(survey_model(model))!r}, or pass head=False if the model's output is the features"
    )


@dataclass
class ClassifierCalls:
    """What a forward showed of one of the classifier's modules: its first layer, what this took, and the width of the output."""

    layer: nn.Module | None = None
    inputs: list[Tensor] = field(default_factory=list)
    width: int | None = None


@contextlib.contextmanager
def captured_classifier(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, ClassifierCalls]]:
    """Inside, collects for each of these modules what its first layer with parameters takes in a forward.

    That layer is the module itself, if it is a layer; what comes before it in the module (pooling, flattening, dropout) is part
    of the features.
    """
    seen = {name: ClassifierCalls() for name in names}
    with contextlib.ExitStack() as stack:
        for name in names:
            module = model.get_submodule(name)
            for layer in _layers(module):
                stack.callback(layer.register_forward_pre_hook(_noting(seen[name]), with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(_noting_width(seen[name])).remove)
        yield seen


def _layers(module: nn.Module) -> list[nn.Module]:
    """Returns the parts of a module with parameters of their own, without grafts; the module itself where there are none."""
    grown = {
        part
        for top in module.modules()
        if isinstance(top, (Graft, parametrize.ParametrizationList))
        for part in top.modules()
    }
    own = [part for part in module.modules() if part not in grown and _has_parameters(part)]
    return own or [module]


def _has_parameters(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module) or any(True for _ in module.parameters(recurse=False))


def _noting(calls: ClassifierCalls) -> Callable[..., None]:
    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensor = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)), None)
        if tensor is not None and calls.layer in (None, layer):
            calls.layer = layer
            calls.inputs.append(tensor.detach().clone())  # the layer may overwrite it

    return note


def _noting_width(calls: ClassifierCalls) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        tensor = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
        calls.width = (
            tensor.shape[1]
            if tensor is not None and tensor.ndim == 4
            else tensor.shape[-1]
            if tensor is not None
            else None
        )

    return note


def classifier_vectors(seen: Mapping[str, ClassifierCalls], count: int, ratio: float) -> Tensor:
    """Returns the vectors [count, D] that the classifier takes, float32.

    Of a map or of tokens, it is the mean over the positions; classifiers of single positions count only where there is no other
    one (volo). Of several classifiers (distilled models) with inputs of the same width, it is the mean, as timm has it without
    a classifier; of different widths (crossvit), the inputs side by side. A module that isn't called doesn't count, nor one whose
    output has another width than that of the last one: it is a layer before the classifier (``head=["norm", "fc"]``).

    Raises:
        SiteError: no classifier was called, one was called several times, or its input isn't one vector for each image.
    """
    called = {name: calls for name, calls in seen.items() if calls.inputs}
    if not called:
        raise SiteError(
            f"the model doesn't call {listing(seen)} in its forward, so what the classifier takes can't be seen; name "
            "the module that it calls: head='NAME', or pass head=False for the model's output"
        )
    last = [*called.values()][-1].width
    found = [_one_vector(name, calls, count, ratio) for name, calls in called.items() if calls.width == last]
    vectors = [vector for vector, is_whole in found if is_whole] or [vector for vector, _ in found]
    same = len({vector.shape for vector in vectors}) == 1
    return vectors[0] if len(vectors) == 1 else torch.stack(vectors).mean(0) if same else torch.cat(vectors, 1)


def _one_vector(name: str, calls: ClassifierCalls, count: int, ratio: float) -> tuple[Tensor, bool]:
    """Returns the vectors that one classifier takes, and whether it takes vectors: not maps or tokens, which are averaged."""
    layer, tensor = cast(nn.Module, calls.layer), calls.inputs[0]
    if len(calls.inputs) > 1:
        raise SiteError(
            f"the classifier {name!r} runs {len(calls.inputs)} times on each batch, so it takes no single vector of an image; "
            "name another module: head='NAME', or pass head=False for the model's output"
        )
    if tensor.ndim < 2 or len(tensor) != count:
        raise SiteError(
            f"the classifier {name!r} takes a tensor {tuple(tensor.shape)} for {count} images; expected [{count}, D]"
        )
    tensor = tensor.float()
    if tensor.ndim == 2 or max(tensor.shape[1:]) == tensor[0].numel() or _covers_map(layer, tensor):
        return tensor.flatten(1), True
    return pooled(tensor, layer, ratio), False


def _covers_map(layer: nn.Module, tensor: Tensor) -> bool:
    """Returns whether a convolution's kernel is as large as the map, so that it is a linear layer of the flattened map."""
    return (
        isinstance(layer, nn.Conv2d) and tensor.shape[2:] == layer.kernel_size and layer.padding in (0, (0, 0), "valid")
    )


def output_vectors(output: Any, count: int) -> Tensor:
    """Returns the vectors [count, D] in the output of a model without a classifier, float32.

    Raises:
        SiteError: the output isn't one vector for each image.
    """
    named = [output.get(k) if isinstance(output, Mapping) else getattr(output, k, None) for k in EMBEDDINGS]
    found = next((value for value in named if isinstance(value, Tensor)), None)
    vectors = cast("Tensor | None", found if found is not None else logits(output))
    if vectors is None or vectors.ndim < 2 or len(vectors) != count or vectors[0].numel() != max(vectors.shape[1:]):
        raise SiteError(
            f"without a classifier, the model's output is the features, and this model returns "
            f"{describe_output(output if vectors is None else vectors)} for {count} images; expected [{count}, D]: build it with "
            "pooling (timm: num_classes=0, and global_pool as it is by default), or name the module that takes the features: "
            "head='NAME'"
        )
    return vectors.float().flatten(1)
