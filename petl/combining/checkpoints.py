"""Reads a fine-tuned checkpoint as a state dict in a base's names, and compares the two."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from petl.errors import StateError, listing, shortened
from petl.sites.names import topmost, within
from petl.wrapping.lookup import bare, wrapped_inside
from petl.wrapping.merge import merge
from petl.wrapping.named_backbones import create_backbone, existing_file

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "net.")  # that trainers put before all names


def base_model(base: Any) -> nn.Module:
    """Returns a copy of a base: a model, or what ``petl rank`` calls a backbone, ``NAME`` or ``NAME:FILE``.

    Raises:
        StateError: it is wrapped, or can't be built.
    """
    if isinstance(base, str):
        return create_backbone(base, {})
    if not isinstance(base, nn.Module):
        raise StateError(f"got {base!r:.60} as the base; expected a model, or the name of one: NAME or NAME:FILE")
    if wrapped_inside(base):
        raise StateError("the base has a delta on it; pass the base alone: petl.unwrap(copy.deepcopy(model))")
    return copy.deepcopy(bare(base))


def tuned_state(tuned: Any) -> dict[str, Tensor]:
    """Returns the tensors of a fine-tuned model, of its state dict, or of a checkpoint file (``.safetensors``, ``.pth`` ...).

    A file is read as timm reads its own, with torch's ``weights_only=True``, which runs no code. A model with a delta on it is
    merged first, in a copy.

    Raises:
        StateError: there is no such file, or it holds no tensors.
    """
    if isinstance(tuned, nn.Module):
        plain = bare(tuned)
        if wrapped_inside(plain):
            plain = merge(copy.deepcopy(plain))
        return {key: tensor.detach() for key, tensor in plain.state_dict().items()}
    found = tuned if isinstance(tuned, Mapping) else _read(tuned)
    tensors = {str(key): value.detach() for key, value in _unpacked(found).items() if isinstance(value, Tensor)}
    if not tensors:
        raise StateError(f"{_shown(tuned)} holds no tensors; expected a state dict, or a model")
    return tensors


def _read(path: Any) -> Any:
    if not isinstance(path, (str, Path)):
        raise StateError(f"got {path!r:.60}; expected a fine-tuned model, its state dict, or the path of a checkpoint")
    file = existing_file(path)
    from timm.models import load_state_dict  # which also knows the arguments beside the weights of timm's own trainings

    try:
        return load_state_dict(str(file), weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own text tells how to run the code in the file
        raise StateError(
            f"{path} can't be read as a checkpoint: it is damaged, or holds more than tensors, such as a whole pickled model, "
            f"which can run any code when it is opened; write its state dict: torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # torch, pickle and zip raise whatever they like
        said = shortened(" ".join(str(error).split()).partition(" No automatic")[0], 200)
        raise StateError(
            f"{path} can't be read as a checkpoint ({said}); expected a .safetensors file, or a state dict that torch.save wrote"
        ) from error


def _unpacked(found: Any) -> Mapping[str, Any]:
    """Returns the state dict inside what a trainer saves: timm's average of weights first, as timm does."""
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            return found[key]
    return found if isinstance(found, Mapping) else {}


def classifier_by_reset(base: nn.Module, tuned: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Returns the modules of the classifier that timm gives a base without one, if the checkpoint has it; else ()."""
    own = base.state_dict()
    rows = [len(value) for key, value in tuned.items() if key not in own and value.ndim > 1]
    if not rows or not hasattr(base, "reset_classifier"):
        return ()
    trial: Any = copy.deepcopy(base)
    trial.reset_classifier(rows[-1])
    new = [key for key in trial.state_dict() if key not in own]
    return tuple(topmost(key.rpartition(".")[0] for key in new)) if new and {*new} <= {*tuned} else ()


def _shown(tuned: Any) -> str:
    return str(tuned) if isinstance(tuned, (str, Path)) else f"this {type(tuned).__name__}"


def _refuse_no_numbers(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
    """Raises a StateError for tensors without values, and for complex numbers, which no base has."""
    for what, tensors in (("base", base), ("checkpoint", tuned)):
        if empty := [key for key, value in tensors.items() if value.is_meta]:
            raise StateError(
                f"{listing(empty)} of the {what} are on the meta device and have no values; load them first"
            )
    if odd := [key for key, value in tuned.items() if value.is_complex()]:
        raise StateError(f"{listing(odd)} of the checkpoint holds complex numbers; expected real ones, as the base's")


def in_names_of(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], heads: tuple[str, ...]) -> dict[str, Tensor]:
    """Returns the tuned tensors under the base's names, without a prefix that all of them have.

    Raises:
        StateError: tensors are missing, unknown, or of another shape, those of the classifier (``heads``) excepted.
    """
    tuned = dict(tuned)
    for prefix in PREFIXES * 2:
        if not {*base} & {*tuned} and all(key.startswith(prefix) for key in tuned):
            tuned = {key.removeprefix(prefix): value for key, value in tuned.items()}
    lacking = [key for key in base if key not in tuned and not within(key, heads)]
    strange = [key for key in tuned if key not in base and not within(key, heads)]
    lacking = [key for key in lacking if not key.endswith("num_batches_tracked")]
    if lacking or strange:
        raise StateError(
            f"the checkpoint isn't one of the base: it lacks {listing(lacking) or 'nothing'} and also has "
            f"{listing(strange) or 'nothing'}; pass the base that it was fine-tuned from, built as it was then"
        )
    other = [key for key in base if key in tuned and not within(key, heads) and tuned[key].shape != base[key].shape]
    if other:
        raise StateError(
            f"{listing(other)} has another shape in the checkpoint: {tuple(tuned[other[0]].shape)}, and "
            f"{tuple(base[other[0]].shape)} in the base; build the base as it was (img_size=, in_chans= ...)"
        )
    _refuse_no_numbers(base, tuned)
    odd = [key for key, value in tuned.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if odd:
        raise StateError(f"{listing(odd)} of the checkpoint holds numbers that are infinite or not a number")
    return {
        key: tuned.get(key, base.get(key, cast(Any, None))) for key in {**base, **tuned} if key in tuned or key in base
    }
