"""Any tuner of Hugging Face peft, with petl's sites, head, norm policy and delta file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from petl.errors import MethodError, SiteError, StateError, listing, near
from petl.graft import base_class
from petl.method import Method, register
from petl.sites import Site, Sites, Where, all_sites, select
from petl.survey import Survey

TRANSIENT = ("task_type", "inference_mode", "auto_mapping", "base_model_name_or_path", "revision", "peft_version")


@register("peft")
@dataclass(frozen=True, kw_only=True)
class Peft(Method):
    """A tuner of peft: pass any of its configs, or name it: ``"peft:LoHa"``.

    petl chooses the layers by ``where`` (by default all linear layers, in a net without any the plain dense
    convolutions; a config's own ``target_modules`` goes before), trains the head, holds BatchNorm still, and saves, loads
    and unwraps bit-exactly. The rest is peft's: it puts wrapper layers in place of the model's own, so weights that a model reads
    without calling the layer (BEiT, EVA, Swin-V2) are not adapted, grouped convolutions are refused, keys get a
    ``base_layer`` in them while wrapped, and merging is as exact as peft's ``merge``: equal up to rounding.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "peft:LoHa", r=4, num_classes=5)
    >>> type(model.blocks[0].attn.proj).__module__
    'peft.tuners.loha.layer'
    """

    exact = False
    reads_base = True
    config: Mapping[str, Any] = field(default_factory=dict)
    where: Where = ()

    @classmethod
    def from_text(cls, text: str, options: Mapping[str, Any]) -> Method:
        import peft

        kinds = {name.removesuffix("Config"): name for name in dir(peft) if name.endswith("Config")}
        if text not in kinds:
            raise MethodError(f"peft:{text}: peft has no {text}Config{near(text, kinds)}; try peft:LoHa")
        own = {key: value for key, value in options.items() if key != "where"}
        try:
            config = getattr(peft, kinds[text])(**own)
            peft.get_peft_config(dict(_values(config)))  # an abstract config names no tuner
        except (TypeError, ValueError, KeyError) as error:
            raise MethodError(f"peft:{text}: {kinds[text]} refused {own}: {error!r}") from None
        return cls(config=_values(config), where=options.get("where", ()))

    @classmethod
    def from_foreign(cls, item: Any) -> Method | None:
        peft = sys.modules.get("peft")  # an object of peft's exists only where peft has been imported
        return cls(config=_values(item)) if peft and isinstance(item, peft.PeftConfig) else None

    def plan(self, found: Survey) -> Sites:
        sites = self._chosen(found)
        dead = [site.name for site in sites if site.name not in found.calls and not found.failed]
        if dead:
            raise SiteError(
                f"peft: {type(found.model).__name__} reads {listing(dead)} without calling it, so peft's wrapper would train "
                f"nothing there; use petl's own 'lora', or leave these out by where="
            )
        if not sites:
            raise SiteError(f"peft: no layer to adapt at where={self.where!r} in {type(found.model).__name__}")
        return sites

    def _chosen(self, found: Survey) -> Sites:
        if self.config.get("target_modules"):
            from peft.tuners.tuners_utils import check_target_module_exists

            config = self._config()
            layers = [s for s in all_sites(found) if {"linear", "conv", "depthwise"} & {*s.roles}]
            return Sites(site for site in layers if check_target_module_exists(config, site.name))
        if self.where:
            return select(found, self.where)
        return select(found, "linear") or Sites(s for s in select(found, "conv") if _is_plain(found.modules[s.name]))

    def apply(self, model: nn.Module, sites: Sequence[Site]) -> None:
        import peft

        flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
        config = self._config()
        config.target_modules = [site.name for site in sites]  # type: ignore[attr-defined]  # of every layer tuner
        try:
            peft.inject_adapter_in_model(config, model)
        except (ValueError, NotImplementedError, TypeError, RuntimeError) as error:
            raise SiteError(f"peft: {config.peft_type} can't go onto these layers: {error}") from error
        for parameter, flag in flags.items():  # peft freezes all that isn't its own, also other methods' grafts
            parameter.requires_grad_(flag)

    def merge(self, model: nn.Module) -> None:
        """Fold every tuner layer into its base layer and put that back; each is tried on one input before and after.

        On an error ``petl.merge`` puts back what was: peft's own ``unmerge`` gives the base back up to rounding only.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
        trials = {name: _Trial(layer) for name, layer in layers.items()}
        try:
            for layer in layers.values():
                layer.merge(safe_merge=True)  # type: ignore[operator]  # every tuner layer has it
        except Exception as error:  # peft raises whatever its tuner raises
            raise StateError(
                f"peft can't merge {self.config.get('peft_type')}: {error}; the model is as it was"
            ) from error
        wrong = [name for name, layer in layers.items() if trials[name].differs(layer)]
        if wrong:
            raise StateError(
                f"peft merges {self.config.get('peft_type')} on {listing(wrong)} to another function than it trained; the model "
                f"is as it was: use it wrapped, save its delta, or train another tuner or petl's own 'lora'"
            )
        for name, layer in layers.items():
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layer.get_base_layer())

    def _config(self) -> Any:
        import peft

        return peft.get_peft_config(dict(self.config))


class _Trial:
    """What a tuner layer answers to one random input before it is merged, and how far its tuner takes that from the base."""

    def __init__(self, layer: Any):
        self.x = _input(layer.get_base_layer())
        self.before = self._answer(layer)
        base = self._answer(layer.get_base_layer())
        self.effect = 0.0 if self.before is None or base is None else float((self.before - base).abs().max())

    def differs(self, merged: Any) -> bool:
        """Whether the merged layer answers something else, by more than rounding."""
        now = self._answer(merged)
        if self.before is None or now is None or self.before.numel() == 0:
            return False
        rounding = max(4 * torch.finfo(now.dtype).eps, 1e-5) * float(self.before.abs().max())
        return not float((now - self.before).abs().max()) <= 0.02 * self.effect + rounding

    def _answer(self, layer: Any) -> Tensor | None:
        """In evaluation mode; None where the layer takes something else."""
        modes = [(module, module.training) for module in layer.modules()]
        try:
            with torch.no_grad(), contextlib.suppress(TypeError, ValueError, RuntimeError):
                return None if self.x is None else layer.eval()(self.x)
        finally:
            for module, mode in modes:
                module.training = mode
        return None


def _input(layer: nn.Module) -> Tensor | None:
    """A random input for this kind of layer, always the same; None for kinds that aren't known."""
    own = next(layer.parameters(), None)
    if own is None or own.is_meta:
        return None
    if isinstance(layer, nn.Embedding):
        return torch.arange(layer.num_embeddings, device=own.device)[:64]
    if isinstance(layer, nn.Linear):
        shape: tuple[int, ...] = (8, layer.in_features)
    elif isinstance(layer, nn.LayerNorm):
        shape = (8, *layer.normalized_shape)
    elif isinstance(layer, nn.modules.conv._ConvNd):
        sizes = zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)
        shape = (2, layer.in_channels, *(d * (k - 1) + 1 + 2 * s for k, d, s in sizes))
    else:
        return None
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(own.device, own.dtype)


def _is_plain(conv: nn.Module) -> bool:
    """Dense, and without a forward of its own (SAME padding, standardised weights), which peft's wrapper would lose."""
    return base_class(conv) is nn.Conv2d and cast(nn.Conv2d, conv).groups == 1


def _values(config: Any) -> dict[str, Any]:
    """A peft config as plain JSON values, without what belongs to peft's own files."""
    values = {k: v for k, v in config.to_dict().items() if k not in TRANSIENT and v is not None}
    return {k: sorted(v) if isinstance(v, set) else getattr(v, "value", v) for k, v in values.items()}
