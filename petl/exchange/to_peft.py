"""to_peft: writes what a model has trained as an adapter of Hugging Face peft."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from torch import Tensor, nn

from petl.delta.file import Paths
from petl.delta.save import delta_of
from petl.errors import StateError, listing
from petl.exchange.kept_texts import kept_texts
from petl.exchange.peft_adapter import PeftAdapter
from petl.exchange.peft_config import lora_config, tuner_config
from petl.exchange.peft_folder import (
    output_folder,
    put_in_place,
    refuse_sharded_or_rounded,
    workshop,
    write_adapter,
)
from petl.exchange.peft_parts import PeftParts, parts_state, sorted_parts
from petl.exchange.peft_trial import try_adapter
from petl.exchange.peft_tuners import tuner_of, tuner_state
from petl.exchange.plain_base import plain_base
from petl.graft.sharded import is_sharded_model
from petl.sites.survey import survey_model
from petl.wrapping.lookup import bare, in_chans, require_record


@torch.inference_mode(False)
def to_peft(model: nn.Module, folder: Paths, *, whole_layers: bool = True) -> PeftAdapter:
    """Writes what a model has trained as an adapter that ``peft.PeftModel.from_pretrained(timm_model, folder)`` loads.

    ``adapter_config.json`` and ``adapter_model.safetensors`` give the plain timm model equal outputs. LoRA and DoRA become
    peft's LoRA with exact names, and ranks and scales for single layers; a classifier, norms (with their running statistics)
    and other modules that train become ``modules_to_save``; biases ``bias="all"``; a tuner of peft's stays what it is. Before
    anything is put into the folder, peft loads the adapter onto a copy of the base, and its outputs and merged weights are
    compared with the model's.

    Args:
        model: wrapped; it stays as it is.
        folder: for the two files; made if it isn't there. Files of these names in it are replaced.
        whole_layers: a layer whose low-rank change peft would compute otherwise (grouped and weight-standardised convolutions,
            weights that are read without calling their layer ...) is written whole, with its changed weight. False refuses.

    Returns:
        What was written: the layers of each kind, bytes, the largest difference of outputs, and how to load it.

    Raises:
        StateError: the model isn't wrapped, or holds what peft can't say (adapters, side networks, parameters of the model
            itself ...): the error names it, and nothing is written.
        DeltaError: the folder can't be written.

    >>> import petl, timm, tempfile, os
    >>> from peft import PeftModel
    >>> weights = timm.create_model("test_vit").state_dict()
    >>> model = timm.create_model("test_vit")
    >>> _ = model.load_state_dict(weights)
    >>> model = petl.wrap(model, "lora", rank=4, num_classes=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     adapter = petl.to_peft(model, os.path.join(folder, "pets"))
    ...     base = timm.create_model("test_vit")  # with pretrained=True, the same weights as always
    ...     _ = base.load_state_dict(weights)
    ...     base.reset_classifier(3)  # as num_classes=3 does
    ...     loaded = PeftModel.from_pretrained(base, adapter.folder)
    >>> x = torch.randn(1, 3, 160, 160)
    >>> torch.allclose(loaded.eval()(x), model.eval()(x), atol=1e-4)
    True
    """
    place = output_folder(folder)
    refuse_sharded_or_rounded(is_sharded_model(bare(model)), require_record(model)[1].base_dtype)
    header, tensors = delta_of(model)
    plain, record = require_record(model)
    base = plain_base(plain)
    survey = survey_model(base, record.backbone["args"].get("img_size"))
    tuner = tuner_of(plain, record)
    parts = sorted_parts(plain, base, survey, tensors)
    if not whole_layers:
        _refuse_whole(parts)
    config = tuner_config(base, tuner, parts) if tuner else lora_config(record, parts)
    state = {**parts_state(plain, base, parts), **(tuner_state(plain, tuner) if tuner else {})}
    config |= {"base_model_name_or_path": _hub_name(base, record.backbone["name"]), "inference_mode": True}
    _blank(base, parts)
    made = workshop(place)
    try:
        write_adapter(made, config, _stored(state), kept_texts(header.to_dict()))
        gap = try_adapter(made, plain, base, survey, weights=tuner is None)
        size = sum(entry.stat().st_size for entry in made.iterdir())
        put_in_place(made, place)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    kind = tuner.kind if tuner else "DoRA" if config["use_dora"] else "LoRA"
    names = [*parts.adapted, *(tuner.names if tuner else ())]
    return _described(plain, parts, folder=str(place), tuner=kind, adapted=names, bytes=size, difference=gap)


def _described(model: nn.Module, parts: PeftParts, **written: Any) -> PeftAdapter:
    """Returns what was written, with the names of the modules of each kind and how to make the base."""
    backbone = require_record(model)[1].backbone
    return PeftAdapter(
        saved=[name for name, reason in parts.whole.items() if not reason],
        whole={name: reason for name, reason in parts.whole.items() if reason},
        biases=len(parts.biases),
        model=backbone["name"],
        arguments=_arguments(model, backbone),
        **written,
    )


def _refuse_whole(parts: PeftParts) -> None:
    """Raises a StateError where layers can't be said as LoRA and the user doesn't want them whole."""
    if reasons := {name: reason for name, reason in parts.whole.items() if reason}:
        shown = "; ".join(sorted({*reasons.values()}))
        raise StateError(
            f"peft's LoRA can't say the change of {listing(reasons)} ({shown}); nothing was written: pass whole_layers=True, "
            f"which writes these {len(reasons)} modules whole, or leave them out by where= and train again"
        )


def _hub_name(model: nn.Module, name: str | None) -> str | None:
    """Returns the name of the base on the hub of Hugging Face, where timm knows that it is there."""
    hub = str((getattr(model, "pretrained_cfg", None) or {}).get("hf_hub_id") or "")
    return f"{hub}{name}" if hub.endswith("/") and name else hub or None


def _blank(base: nn.Module, parts: PeftParts) -> None:
    """Sets all that the folder has to bring to zero, so that the trial shows that it does."""
    with torch.no_grad():
        for name in parts.whole:
            for tensor in base.get_submodule(name).state_dict().values():
                tensor.zero_()
        for name in parts.biases:
            base.get_submodule(name).get_parameter("bias").zero_()


def _stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}


def _arguments(model: nn.Module, backbone: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments with which ``timm.create_model`` makes the model that the adapter goes onto."""
    classes, channels = getattr(model, "num_classes", None), in_chans(model)
    usual = (getattr(model, "pretrained_cfg", None) or {}).get("num_classes")
    sizes = {"num_classes": classes} if classes not in (None, usual) else {}
    return {**backbone["args"], **sizes, **({"in_chans": channels} if channels != 3 else {})}
