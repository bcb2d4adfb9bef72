"""Adapted weights: always the model's own, made anew at each use; writing to them is refused, never lost."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from timm.layers import CondConv2d
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import petl
from petl.graft.adapted_weight import AdaptedWeight
from petl.kernels import buffers
from tests.support.compare import differing, state
from tests.support.zoo import disturb, images, make, output

# what changes numbers without a trace in version counters
WRITES: dict[str, Callable[[Tensor], Any]] = {
    "a teacher's step": lambda p: p.data.mul_(0.99).add_(torch.ones_like(p.data), alpha=1e-3),
    "swapped in": lambda p: setattr(p, "data", p.data + 0.1),
    "copied": lambda p: p.data.copy_(p.data.roll(1, 0)),
    "grown": lambda p: p.data.neg_().mul_(-1.001),
    "by numpy": lambda p: p.detach().numpy().__imul__(1.5),
}
KINDS = {
    "lora": ("vit", "lora", {}),
    "dora": ("vit", "lora", {"dora": True}),
    "slices": ("vit", "lora", {"slices": "qv"}),
    "reads weights": ("beit", "lora", {}),
    "convolutions": ("resnet", "lora", {"fused": False}),
    "standardised": ("nfnet", "lora", {}),
    "low precision": ("vit", "lora", {"base_dtype": torch.bfloat16}),
    "input": ("resnet", "input", {"in_chans": 3}),
}


def wrapped(kind: str) -> tuple[nn.Module, Tensor]:
    name, method, options = KINDS[kind]
    return disturb(petl.wrap(make(name), method, **options)), images(name, batch=2)


class Rare(nn.Module):
    """Layers whose weights are no single matrix called weight: an LSTM, attention, and timm's experts."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.attention = nn.LSTM(8, 8, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)
        self.experts, self.head = CondConv2d(8, 4, 3, num_experts=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.lstm(x)[0]
        out = self.attention(out, out, out, need_weights=False)[0].mT.unflatten(2, (4, 4))
        return self.head(self.experts(out, torch.ones(len(x), 2)).mean((2, 3)))


def test_evaluation_sees_every_write_to_rare_layers() -> None:
    model, x = disturb(petl.wrap(Rare(), "lora", head=["head"])).eval(), torch.randn(2, 16, 8)
    with torch.inference_mode():
        before = model(x)
        for name, parameter in petl.trainable(model).items():
            WRITES["a teacher's step"](parameter)
            now = model(x)
            assert not torch.equal(now, before), name
            before = now
    assert torch.equal(before, afresh(model, x))
    assert torch.equal(output(petl.merge(model), x), before)


def afresh(model: nn.Module, x: Tensor) -> Tensor:
    """What a copy without any past answers."""
    return output(pickle.loads(pickle.dumps(model)), x)


@pytest.mark.sweep(4)
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_sees_every_write(kind: str) -> None:
    """To the delta and to the base, whatever the way."""
    model, x = wrapped(kind)
    model.eval()
    for name, write in WRITES.items() if kind == "lora" else [("a teacher's step", WRITES["a teacher's step"])]:
        for part in (petl.trainable(model), dict(model.named_parameters())):
            with torch.no_grad():
                before = model(x)
            for parameter in part.values():
                write(parameter)
            with torch.inference_mode():
                now = model(x)
            assert not torch.equal(now, before), name
            assert torch.equal(now, afresh(model, x)) and torch.equal(now, output(model, x)), name


def test_merging_after_a_write_folds_what_is_there() -> None:
    model, x = wrapped("lora")
    with torch.no_grad():
        model.eval()(x)
        for parameter in petl.trainable(model).values():
            parameter.data.mul_(3)
        expected = afresh(model, x)
        assert torch.equal(petl.merge(model)(x), expected)


@pytest.mark.deep
def test_a_compiled_model_sees_writes_too() -> None:
    model, x = wrapped("lora")
    compiled = torch.compile(model.eval(), backend="eager")
    with torch.no_grad():
        compiled(x)
        for parameter in petl.trainable(model).values():
            parameter.data.mul_(3)
        torch.testing.assert_close(compiled(x), afresh(model, x))


def test_nothing_is_kept_between_forwards() -> None:
    """Neither on modules nor anywhere else, but for this thread's blocks, each of the size of one weight."""
    layer = petl.wrap(nn.Sequential(nn.Linear(600, 600)), "lora", head=False)[0]
    with torch.no_grad():
        first = layer.weight
        second, third = layer.weight, layer.weight
        assert len({w.data_ptr() for w in (first, second, third)}) == 3  # all are held, so none is overwritten
        assert torch.equal(first, second) and torch.equal(first, third)
        del first, second, third
        gc.collect()
        place = layer.weight.data_ptr()
        assert layer.weight.data_ptr() == place
    assert len(buffers._THREAD_BLOCKS.kept) == buffers.BLOCKS_PER_THREAD
    assert sorted(vars(layer)) == sorted(vars(nn.Linear(2, 2)))


def test_scratch_memory_is_not_given_out_while_a_view_of_it_lives() -> None:
    layer = petl.wrap(nn.Sequential(nn.Linear(600, 600)), "lora", head=False)[0]
    for mode in (torch.no_grad, torch.inference_mode, torch.no_grad):
        with mode():
            kept = [layer.weight.flatten()[5:9], layer.weight.T[0], layer.weight.detach().numpy()[0]]
            values = [torch.as_tensor(part).clone() for part in kept]
            layer.lora.up.data.add_(1)
            for _ in range(3):
                torch.nn.functional.linear(torch.ones(2, 600), layer.weight)
            assert all(torch.equal(torch.as_tensor(k), v) for k, v in zip(kept, values, strict=True))


def test_threads_have_memory_of_their_own() -> None:
    layers = [disturb(petl.wrap(nn.Sequential(nn.Linear(600, 600)), "lora", head=False))[0] for _ in range(4)]
    expected, wrong = [layer.weight.detach().clone() for layer in layers], []

    def work(layer: nn.Module, value: Tensor) -> None:
        with torch.inference_mode():
            wrong.extend(i for i in range(20) if not torch.equal(layer.weight, value))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(layers, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# writing to what is computed

LOST: dict[str, Callable[[nn.Linear], Any]] = {
    "init.zeros_": lambda layer: nn.init.zeros_(layer.weight),
    "init.kaiming": lambda layer: nn.init.kaiming_normal_(layer.weight),
    "init.orthogonal_": lambda layer: nn.init.orthogonal_(layer.weight),
    "init.eye_": lambda layer: nn.init.eye_(layer.weight),
    "reset_parameters": lambda layer: layer.reset_parameters(),
    "data =": lambda layer: setattr(layer.weight, "data", torch.zeros(4, 4)),
    "data.normal_": lambda layer: layer.weight.data.normal_(),
    "data[:] =": lambda layer: layer.weight.data.__setitem__(slice(None), 0),
    "copy_": lambda layer: layer.weight.copy_(torch.zeros(4, 4)),
    "[0] =": lambda layer: layer.weight.__setitem__(0, 0.0),
    "+=": lambda layer: layer.weight.__iadd__(1),
    "view.zero_": lambda layer: layer.weight.view(-1).zero_(),
    "[0].zero_": lambda layer: layer.weight[0].zero_(),
    "T.zero_": lambda layer: layer.weight.T.zero_(),
    "chunk": lambda layer: layer.weight.chunk(2)[0].zero_(),
    "detach.fill_": lambda layer: layer.weight.detach().fill_(1),
    "torch.zero_": lambda layer: torch.zero_(layer.weight),
    "out=": lambda layer: torch.zeros(4, 4, out=layer.weight),
    "foreach": lambda layer: torch._foreach_mul_([layer.weight], 0),
    "weight = Parameter": lambda layer: setattr(layer, "weight", nn.Parameter(torch.zeros(4, 4))),
    "weight = None": lambda layer: setattr(layer, "weight", None),
    "del": lambda layer: delattr(layer, "weight"),
    "requires_grad_": lambda layer: layer.weight.requires_grad_(not layer.weight.requires_grad),
    "vector_to_parameters": lambda layer: nn.utils.vector_to_parameters(torch.zeros(16), [layer.weight]),
    "Parameter(weight)": lambda layer: nn.Parameter(layer.weight),
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "old weight_norm": lambda layer: nn.utils.weight_norm(layer),
    "old spectral_norm": lambda layer: nn.utils.spectral_norm(layer),
    "weight_norm": lambda layer: parametrizations.weight_norm(layer),
    "orthogonal": lambda layer: parametrizations.orthogonal(layer),
    "parametrize": lambda layer: parametrize.register_parametrization(layer, "weight", nn.Identity()),
}


@pytest.mark.sweep(20)
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("way", LOST)
def test_writing_to_an_adapted_weight_is_refused(way: str, grad: bool) -> None:
    """At once, or where torch's own code writes past the methods, at the next use; nothing has changed."""
    net = disturb(petl.wrap(nn.Sequential(nn.Linear(4, 4)), "lora", head=False))
    layer, before, value = net[0], state(net), net[0].weight.detach().clone()
    kind, keys = type(layer), sorted(vars(layer))
    later = way in ("init.eye_", "torch.zero_", "out=", "foreach")
    if later:
        with pytest.warns(UserWarning, match="petl has adapted"), torch.set_grad_enabled(grad):
            LOST[way](layer)
    with pytest.raises(petl.StateError, match="petl has adapted"), torch.set_grad_enabled(grad):
        cast(Any, layer.weight if later else LOST[way](layer))
    assert not differing(before, state(net)) and torch.equal(layer.weight, value)
    assert type(layer) is kind and sorted(vars(layer)) == keys and not layer._forward_pre_hooks
    assert layer(torch.ones(2, 4)).requires_grad
    petl.unwrap(net)
    assert type(layer) is nn.Linear


def test_a_models_own_initialisation_after_wrap_is_refused() -> None:
    model = petl.wrap(make("vit"), "lora")
    with pytest.raises(
        petl.StateError, match=r"on the weight of a (Linear|Conv2d) that petl has adapted.*before petl.wrap"
    ):
        model.init_weights()


def test_an_adapted_weight_can_be_read_like_any_tensor() -> None:
    layer = disturb(petl.wrap(nn.Sequential(nn.Linear(4, 4)), "lora", head=False))[0]
    weight = layer.weight
    plain = weight * 1
    assert isinstance(weight, AdaptedWeight) and type(plain) is type(weight.clone()) is Tensor
    assert type(nn.functional.linear(torch.ones(1, 4), weight)) is Tensor
    assert torch.equal(weight.data.clone().zero_(), torch.zeros(4, 4))
    assert weight[[0, 1]].mul_(2).shape == (2, 4)  # a copy
    assert [row.shape for row in weight] == [(4,)] * 4 and weight.requires_grad
    with torch.no_grad():
        assert type(copy.deepcopy(layer.weight)) is type(pickle.loads(pickle.dumps(layer.weight))) is Tensor
    assert torch.equal(nn.Parameter(weight.detach().clone()), plain)
    compiled = torch.compile(nn.functional.linear, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(1, 4), weight), plain.sum(1)[None])


def test_loading_by_assignment_reaches_the_base() -> None:
    layer = petl.wrap(nn.Sequential(nn.Linear(4, 4)), "lora", head=False)[0]
    value = torch.randn(4, 4)
    layer.load_state_dict({"weight": value}, strict=False, assign=True)
    assert torch.equal(layer._parameters["weight"], value) and torch.equal(layer.weight, value)
