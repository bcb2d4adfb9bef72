"""`extract` finds the delta in a fine-tuned checkpoint: low-rank changes of weights, and everything else as it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from petl.combining.checkpoints import base_model, classifier_by_reset, in_names_of, tuned_state
from petl.combining.extracted import AccuracyCost, Extracted
from petl.combining.rebuilding import FULL, Head, Rebuilt, chosen_ranks, rebuilt
from petl.combining.refitted import right
from petl.combining.task_data import Passes
from petl.combining.weight_matrices import rank_for_energy
from petl.data.inputs import Data
from petl.delta.tensors import delta_tensors
from petl.errors import MethodError, StateError
from petl.evidence.intervals import standard_error
from petl.extraction.features import features
from petl.format.outputs import labels_for
from petl.sites.names import within
from petl.wrapping.head import head_option
from petl.wrapping.merge import merge
from petl.wrapping.own_tensors import state_tensors
from petl.wrapping.preconditions import survey_unwrapped

AUTO_ENERGY = 0.9  # of the squared norm of each layer's change: what rank="auto" keeps


@torch.inference_mode(False)
def extract(
    base: nn.Module | str,
    tuned: Any,
    *,
    rank: int | Literal["auto", "full"] = 8,
    energy: float | None = None,
    head: bool | str | Sequence[str] = True,
    labels: Sequence[Any] | None = None,
    data: Data | None = None,
    images: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = True,
) -> Extracted:
    """Finds the delta in a fine-tuned checkpoint: what it changes in the base, as a small delta like any other.

    Changes of layers' weights become low-rank, by singular values; biases, norms and their statistics, position embeddings and
    the classifier are taken as they are, to the bit. So is a weight whose factors would be no smaller than the weight.

    Args:
        base: The model that was fine-tuned, with its weights from before; or its name: ``NAME``, ``NAME:FILE``. It isn't changed.
        tuned: The fine-tuned model, its state dict, or a checkpoint file: ``.safetensors``, or torch's own, which is read with
            ``weights_only=True``. Its classifier may have any number of classes.
        rank: Of each changed weight. "auto": for each the smallest that keeps nine tenths of its change (squared Frobenius norm).
            "full": whole tensors, nothing is lost.
        energy: In place of ``rank``: the share of the squared norm to keep, such as 0.99.
        head: As for `petl.wrap`: the classifier's names where the model isn't timm's, False where it has none.
        labels: Names of the classes, for the delta.
        data: Labelled images, as for `petl.features`: the accuracy of the checkpoint and of the delta are compared on at most
            ``images`` of them.

    Raises:
        StateError: the checkpoint can't be read, or isn't of this base. MethodError: a setting that can't be. DeltaError: labels
            that aren't one for each class.

    >>> import petl, timm, copy
    >>> base = timm.create_model("test_vit")
    >>> tuned = petl.merge(petl.wrap(copy.deepcopy(base), "lora", num_classes=2))
    >>> found = petl.extract(base, tuned, rank=8)
    >>> found.classes, found.tensors
    (2, 0)
    """
    keep = _energy(rank, energy)
    option = head_option(head)
    with torch.random.fork_rng(devices=[]):
        model = base_model(base)
        state = tuned_state(tuned)
        survey = survey_unwrapped(model, option)
        heads = () if option is False else tuple(survey.head or ()) or classifier_by_reset(model, state)
        own = {key: tensor.detach().clone() for key, _, _, tensor in state_tensors(model)}
        aliases = _aliases(model, own)
        named = in_names_of({**own, **aliases}, state, heads)
        classifier = {key: value for key, value in named.items() if within(key, heads)}
        trunk = {key: value.to(own[key].dtype) for key, value in named.items() if key in own and key not in classifier}
        wanted = {key: value for key, value in trunk.items() if not torch.equal(value.cpu(), own[key].cpu())}
        ranks = chosen_ranks(model, wanted, _rank_of(rank, keep), own)
        size = getattr(getattr(model, "patch_embed", None), "img_size", None)
        result = rebuilt(model, wanted, ranks, _extracted_head(option, heads, classifier, own), size and tuple(size))
        _refuse_other_classifier(result, classifier)
        classes = result.record.backbone["num_classes"] if classifier else None
        result.record.labels = labels_for(classes, labels)
        cost = None
        if data is not None:
            cost = _cost(result.model, named, data, Passes(images, seed, batch_size, workers, progress))
    numbers = sum(tensor.numel() for tensor in delta_tensors(result.model, result.record)[0].values())
    whole = sum(tensor.numel() for tensor in own.values())
    return Extracted(result.model, len(wanted), result.layers, result.residual, numbers, whole, classes, cost)


def _energy(rank: Any, energy: Any) -> float | None:
    """Returns the share of the squared norm to keep; None where ``rank`` is a number or "full"."""
    whole = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1
    if not whole and rank not in ("auto", FULL):
        raise MethodError(f"rank={rank!r:.40}; expected a whole number from 1 on, 'auto' or 'full'")
    if energy is None:
        return AUTO_ENERGY if rank == "auto" else None
    if isinstance(energy, bool) or not isinstance(energy, (int, float)) or not 0 < energy <= 1:
        raise MethodError(f"energy={energy!r:.40}; expected the share of each change to keep, above 0 and up to 1")
    return float(energy)


def _rank_of(rank: Any, energy: float | None) -> Any:
    def of(key: str, matrix: Tensor) -> int | None:
        if energy is not None:
            return rank_for_energy(matrix, energy)
        return None if rank == FULL else int(rank)

    return of


def _aliases(model: nn.Module, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the state dict's further names of tensors that several modules share."""
    return {key: tensor.detach() for key, tensor in model.state_dict().items() if key not in own}


def _extracted_head(
    option: Any, names: Sequence[str] | None, classifier: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Head:
    """Returns the checkpoint's classifier; the number of its classes is that of the last of its weights' rows."""
    if option is False or not classifier:
        return Head(option if names else False)
    rows = [len(value) for value in classifier.values() if value.ndim > 1]
    same = all(key in own and own[key].shape == value.shape for key, value in classifier.items())
    return Head(option, None if same or not rows else rows[-1], classifier)


def _refuse_other_classifier(result: Rebuilt, classifier: Mapping[str, Tensor]) -> None:
    there = {key: tensor for key, _, _, tensor in state_tensors(result.model)}
    odd = [key for key, value in classifier.items() if key not in there or there[key].shape != value.shape]
    lost = [key for key in result.record.head_tensors if key not in classifier] if classifier else []
    if odd or lost:
        raise StateError(
            f"the checkpoint's classifier is built otherwise than the base's ({', '.join([*odd, *lost][:3])}); name its modules: "
            f"head=, or build the base with the same classifier"
        )


def _cost(model: nn.Module, named: Mapping[str, Tensor], data: Any, passes: Passes) -> AccuracyCost:
    """Compares the delta with the checkpoint itself on the same images."""
    whole = merge(copy.deepcopy(model))
    whole.load_state_dict({key: value for key, value in named.items() if key in whole.state_dict()}, strict=False)
    options: dict[str, Any] = {"images": passes.images, "seed": passes.seed, "batch_size": passes.batch_size}
    options |= {"workers": passes.workers, "progress": passes.progress, "cache": False, "head": False}
    first = features(whole.eval(), data, labels=None, **options)
    second = features(model, data, labels=None, **options)
    y = first.y
    if y is None or y.is_floating_point() or y.ndim > 1:
        raise StateError("data= compares accuracies, and these images have no classes; leave it out")
    hits = [right(found.x, y) for found in (first, second)]
    gaps = hits[1] - hits[0]
    return AccuracyCost(
        len(gaps), float(hits[0].mean()), float(hits[1].mean()), float(gaps.mean()), standard_error(gaps)
    )
