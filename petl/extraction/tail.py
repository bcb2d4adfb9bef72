"""The tail of a model: the part from a cut point on, to be trained alone on features.

A tail is the model's own forward, in which the modules below the cut point are skipped. Skipped modules return tensors without
memory, full of NaN, so it shows if the model uses one of them after all. `tail_search.py` tries whether a tail computes and
trains as the whole model does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from petl.errors import DataError, StateError
from petl.extraction.cut_points import CutPoint, Placeholder

# what a model's own code raises where it uses the values of skipped modules
MODEL_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError, DataError, StateError)


@contextlib.contextmanager
def captured_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, collects the first argument of each call of ``module``; a call without a tensor there adds an empty one."""
    inputs: list[Tensor] = []

    def capture(_: nn.Module, args: tuple[Any, ...]) -> None:
        # a copy, as the module may overwrite its input
        inputs.append(args[0].detach().clone() if args and isinstance(args[0], Tensor) else torch.empty(0))

    handle = module.register_forward_pre_hook(capture)
    try:
        yield inputs
    finally:
        handle.remove()


class Tail(nn.Module):
    """The part of ``model`` from a cut point on, as a module that takes features; it runs only inside ``skipping``."""

    def __init__(self, model: nn.Module, cut: CutPoint, images: Tensor):
        super().__init__()
        self.model, self.cut = model, cut
        self.image = Placeholder(tuple(images.shape), images.dtype, images.device, len(images))
        self.dtype: torch.dtype | None = None  # of the features
        self.per_image = 0  # bytes of the features; both are known after the first forward
        self._frozen = [p for name, p in model.named_parameters() if cut.needs(name) and not p.requires_grad]
        self._features: Tensor | None = None
        self._calls: dict[nn.Module, int] = {}

    def forward(self, features: Tensor) -> Any:
        if any(p.requires_grad for p in self._frozen):
            raise StateError(
                f"something below {self.cut.name} has begun to train, where nothing runs any more: its features were computed "
                "before; pass cache=False to unfreeze layers during a training"
            )
        self._features, self._calls = features.to(self.dtype or features.dtype), {}
        return self.model(self.image(len(features)))

    @contextlib.contextmanager
    def skipping(self) -> Iterator[None]:
        """Inside, the modules below the cut point are skipped, in forwards of this tail and their backwards."""
        below = list(dict.fromkeys(visit.module for visit in self.cut.before))
        own = [(vars(module), vars(module).get("forward")) for module in below]
        hook = self.cut.module.register_forward_pre_hook(self._replace_input, with_kwargs=True)
        for module in below:
            vars(module)["forward"] = self._skipped_forward(module)
        try:
            yield
        finally:
            hook.remove()
            self._features = None
            for attributes, before in own:
                attributes.pop("forward")
                attributes.update({} if before is None else {"forward": before})

    def release(self) -> None:
        """Forgets the features of the last step: until its next forward, the model runs whole, also inside ``skipping``."""
        self._features = None

    def _replace_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._features is None:
            return None
        return (self._features, *args[1:]), kwargs

    def _skipped_forward(self, module: nn.Module) -> Callable[..., Any]:
        """Returns a forward that gives the shapes that the module returned below the cut point; later calls are computed."""
        returned = [visit.returned for visit in self.cut.before if visit.module is module]
        real = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            call = self._calls.get(module, 0)
            self._calls[module] = call + 1
            if call >= len(returned) or self._features is None:
                return real(*args, **kwargs)
            images = len(self._features)
            return tree_map(lambda leaf: leaf(images) if isinstance(leaf, Placeholder) else leaf, returned[call])

        return forward
