"""Properties of `petl.combine`: what equal, opposite and exchanged deltas give, to the bit, on several kinds of network."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import petl
from petl.combining.arithmetic import exact_sum, ties
from petl.combining.weight_matrices import best_factors, isotropic, rank_for_energy

RESIDUAL_OF_ROUNDING = 1e-4  # of a change: its factors are float32, and so is the weight that it is added to


def base_of(name: str = "test_efficientnet") -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name).eval()


def trained(
    base: nn.Module, methods: Any, seed: int, *, num_classes: int = 3, size: float = 0.02, **options: Any
) -> Any:
    """A wrapped copy whose trainable tensors have moved, as after a training."""
    torch.manual_seed(seed)
    model = petl.wrap(copy.deepcopy(base), methods, num_classes=num_classes, **options)
    with torch.no_grad():
        for parameter in petl.trainable(model).values():
            parameter.add_(size * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name in petl.record(model).owned_keys and buffer.is_floating_point():  # type: ignore[union-attr]  # wrapped
                buffer.add_(size * torch.rand_like(buffer))
    return model.eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def same(one: nn.Module, two: nn.Module) -> bool:
    x = images()
    return bool(torch.equal(one(x), two(x)))


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return base_of()


def test_one_delta_comes_out_as_it_is_and_minus_itself_is_the_base(base: nn.Module, tmp_path: Path) -> None:
    one = trained(base, ["lora", "norm"], 1)
    before = {key: value.clone() for key, value in one.state_dict().items()}
    path = petl.save(one, tmp_path / "one.safetensors", labels=["a", "b", "c"])
    petl.record(one).labels = ["a", "b", "c"]  # type: ignore[union-attr]  # wrapped
    state = torch.get_rng_state()
    for deltas, weights in (([one], None), ([one, path], None), ([one, one, path], [0.7, 0.2, 0.1])):
        combined = petl.combine(deltas, weights=weights, model=copy.deepcopy(base))
        assert same(combined.model, one), (deltas, weights)
        assert petl.record(combined.model).labels == ["a", "b", "c"]  # type: ignore[union-attr]
    assert combined.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    nothing = petl.combine([one, path], weights=[1, -1])
    assert same(nothing.model, base) and not nothing.tensors
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in one.state_dict().items())


@pytest.mark.deep
def test_the_order_makes_no_difference_and_the_result_is_a_delta_like_any_other(
    base: nn.Module, tmp_path: Path
) -> None:
    one, two = trained(base, "lora", 1), trained(base, [petl.LoRA(rank=2), petl.Bias()], 2)
    combined, turned = petl.combine([one, two], weights=[0.7, 0.3]), petl.combine([two, one], weights=[0.3, 0.7])
    assert same(combined.model, turned.model) and combined.residual < RESIDUAL_OF_ROUNDING
    path = combined.save(tmp_path / "c.safetensors")
    assert petl.read(path)["results"]["combined"]["weights"] == [0.7, 0.3]
    out = combined.model(images())
    assert same(petl.load(path, copy.deepcopy(base)).eval(), combined.model)
    tasks = petl.Tasks(copy.deepcopy(base))
    tasks.add("c", path)
    assert torch.equal(tasks["c"](images()), out)
    assert torch.equal(petl.merge(copy.deepcopy(combined.model))(images()), out)
    assert same(petl.unwrap(combined.model), base)


@pytest.mark.deep
def test_a_sum_is_the_sum_of_the_changes(base: nn.Module) -> None:
    one, two = trained(base, "lora", 1), trained(base, "partial", 2)
    own = base.state_dict()
    merged = [petl.merge(copy.deepcopy(model)).state_dict() for model in (one, two)]
    combined = petl.merge(petl.combine([one, two], weights=[0.5, -0.25]).model).state_dict()
    for key in own:
        if key.startswith("classifier") or not own[key].is_floating_point():
            continue
        sums = own[key] + 0.5 * (merged[0][key] - own[key]) - 0.25 * (merged[1][key] - own[key])
        torch.testing.assert_close(combined[key], sums, atol=1e-6, rtol=0)
    towards = petl.combine(["base", one], weights=[0.3, 0.7])
    assert same(towards.model, petl.combine([one], weights=[0.7]).model)
    torch.testing.assert_close(towards.model.state_dict()["classifier.weight"], merged[0]["classifier.weight"])


@pytest.mark.deep
def test_a_sum_of_rounded_deltas_says_so(base: nn.Module, tmp_path: Path) -> None:
    one, two = (trained(base, "lora", seed) for seed in (1, 2))
    files = [petl.save(one, tmp_path / "one.safetensors", dtype="int8"), petl.save(two, tmp_path / "two.safetensors")]
    for weights, said in (([0.5, 0.5], "int8"), ([0, 0.5], None)):
        weights_as_array = torch.tensor(weights).numpy()
        summed = petl.combine(files, weights=weights_as_array, model=base).save(tmp_path / "sum.safetensors")
        assert petl.read(summed)["approximate"] == said


def test_statistics_are_averaged_as_moments(base: nn.Module) -> None:
    models = [trained(base, "bn", seed, size=0.5) for seed in (1, 2)]
    name = next(key for key in base.state_dict() if key.endswith("running_var"))
    mean, var = ([m.state_dict()[name.replace("var", kind)].double() for m in models] for kind in ("mean", "var"))
    found = petl.merge(petl.combine(models).model).state_dict()
    middle = (mean[0] + mean[1]) / 2
    torch.testing.assert_close(found[name.replace("var", "mean")].double(), middle, atol=1e-6, rtol=1e-6)
    wanted = (var[0] + mean[0] ** 2 + var[1] + mean[1] ** 2) / 2 - middle**2
    torch.testing.assert_close(found[name].double(), wanted, atol=1e-6, rtol=1e-5)
    beyond = petl.merge(petl.combine(models, weights=[3, -2]).model).state_dict()
    assert bool((beyond[name] > 0).all())


@pytest.mark.deep
def test_what_cannot_be_combined_is_refused(base: nn.Module, tmp_path: Path) -> None:
    one = trained(base, "lora", 1)
    other = trained(base_of("test_resnet"), "lora", 1)
    moved = copy.deepcopy(base)
    with torch.no_grad():
        moved.conv_stem.weight.add_(1)  # type: ignore[union-attr, operator]  # it is a layer
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ([one, trained(base, "adapter", 2)], {}, petl.DeltaError, "adapter.* can't be combined.*petl.Tasks"),
        ([one, trained(base, "input", 2, in_chans=1)], {}, petl.DeltaError, "images of 1 channels and its base of 3"),
        ([one, other], {}, petl.StateError, "one and the same backbone"),
        ([one, trained(moved, "lora", 2)], {}, petl.StateError, "other weights"),
        ([one, trained(moved, "bias", 2)], {}, petl.DeltaError, "digest"),
        ([one], {"model": moved}, petl.DeltaError, "digest"),
        ([], {}, petl.StateError, "no delta"),
        (one, {}, petl.StateError, "list"),
        ([base], {}, petl.StateError, "only the base"),
        ([tmp_path / "none.safetensors"], {}, petl.DeltaError, "none.safetensors"),
        ([one], {"weights": [1, 2]}, petl.MethodError, "a number for each of the 1"),
        ([one], {"weights": [float("nan")]}, petl.MethodError, "a number for each"),
        ([one], {"weights": "auto"}, petl.MethodError, "data="),
        ([one], {"how": "median"}, petl.MethodError, "'mean', 'ties', 'iso'"),
        ([one], {"rank": 0}, petl.MethodError, "rank=0"),
        ([one], {"density": 0}, petl.MethodError, "density=0"),
        ([one], {"heads": "best"}, petl.MethodError, "heads='best'"),
        ([one], {"heads": "refit"}, petl.MethodError, "data="),
    ]
    for deltas, options, kind, said in cases:
        with pytest.raises(kind, match=said):
            petl.combine(deltas, **options)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "how"),
    [("test_vit", "iso"), ("test_resnet", "mean"), ("test_resnet", "ties"), ("test_efficientnet_gn", "iso")],
)
def test_methods_of_all_kinds_combine(name: str, how: str, tmp_path: Path) -> None:
    base = base_of(name)
    plain = petl.LoRA(rank=2, where=("linear", "conv", "depthwise"))
    models = [trained(base, plain, 1), trained(base, ["bias"], 2), trained(base, "full", 3, stats="adapt")]
    models += [trained(base, petl.LoRA(rank=2, dora=True), 4)] * (name == "test_vit")
    combined = petl.combine(models, how=how)
    assert same(combined.model, petl.combine(models[::-1], how=how).model)
    path = combined.save(tmp_path / "c.safetensors")
    assert same(petl.load(path, copy.deepcopy(base)).eval(), combined.model)
    assert same(petl.unwrap(combined.model), base)


@pytest.mark.deep
def test_low_rank_changes_stay_low_rank_and_a_smaller_rank_says_what_it_costs() -> None:
    base = base_of("test_vit")
    models = [trained(base, petl.LoRA(rank=4), 1), trained(base, petl.LoRA(rank=2, slices="qv"), 2)]
    exact = petl.combine(models)
    assert {layer.rank for layer in exact.layers} == {4, 8} and exact.residual < RESIDUAL_OF_ROUNDING
    cut, whole = petl.combine(models, rank=2), petl.combine(models, rank="full")
    assert {layer.rank for layer in cut.layers} == {2} and 0.1 < cut.residual < 1
    assert all(layer.rank is None and layer.residual == 0 for layer in whole.layers)
    with torch.no_grad():
        torch.testing.assert_close(whole.model(images()), exact.model(images()), atol=1e-5, rtol=1e-4)
    assert "cuts off" in str(cut) and cut.to_json()["layers"][0]["rank"] == 2 and "model" not in cut.to_json()


@pytest.mark.deep
def test_classifiers_of_different_classes_stand_side_by_side_under_their_names(tmp_path: Path) -> None:
    base = base_of()
    pets, birds = trained(base, "lora", 1, num_classes=3), trained(base, "lora", 2, num_classes=2)
    petl.record(pets).labels, petl.record(birds).labels = ["cat", "dog", "eel"], ["owl", "kea"]  # type: ignore[union-attr]
    combined = petl.combine({"pets": pets, "birds": birds})
    assert combined.labels == ["birds/owl", "birds/kea", "pets/cat", "pets/dog", "pets/eel"]
    assert same(combined.model, petl.combine({"birds": birds, "pets": pets}).model)
    alone = combined.only("pets")
    assert petl.record(alone).labels == ["cat", "dog", "eel"]  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(alone(images()), combined.model(images())[:, 2:])
    assert petl.load(combined.save(tmp_path / "c.safetensors"), copy.deepcopy(base)).num_classes == 5
    kept = petl.combine({"pets": pets, "birds": birds}, heads="birds")
    assert kept.labels == ["owl", "kea"] and kept.model.num_classes == 2
    with pytest.raises(petl.StateError, match="classes differ"):
        petl.combine({"pets": pets, "birds": birds}, heads="mean")
    with pytest.raises(petl.StateError, match="no classifier 'fish'"):
        combined.only("fish")
    minus = petl.combine({"pets": pets, "birds": birds}, weights=[1, -0.5])
    assert minus.labels == ["cat", "dog", "eel"]


@pytest.mark.deep
def test_an_adapter_alone_comes_out_as_it_is_and_a_bfloat16_base_too() -> None:
    base = base_of("test_vit")
    for methods, options in (("adapter", {}), ("lora", {"base_dtype": torch.bfloat16}), ("peft:LoHa", {})):
        model = trained(base, methods, 1, **options)
        assert same(petl.combine([model]).model, model), methods
    foreign = petl.combine([trained(base, "peft:LoHa", 1), trained(base, "lora", 2)])
    assert not any(method.name == "peft" for method in petl.record(foreign.model).methods)  # type: ignore[union-attr]


def test_sums_of_weights_are_exact() -> None:
    assert exact_sum([0.1] * 10) == 1 and exact_sum([1 / 3] * 3) == 1 and exact_sum([0.3, 0.3, -0.6]) == 0
    assert exact_sum([0.25, 0.5]) == 0.75


def test_ties_keeps_the_largest_numbers_of_the_elected_sign() -> None:
    one, two = torch.tensor([4.0, -3.0, 0.1, 2.0]), torch.tensor([-1.0, -5.0, 3.0, 0.2])
    found = ties([(0.5, one.double()), (0.5, two.double())], 0.5)
    assert found.tolist() == [4.0, -4.0, 3.0, 0.0]
    assert ties([(1.0, one.double())], 1.0).tolist() == one.double().tolist()


def test_singular_values_become_their_mean_within_the_rank() -> None:
    matrix = torch.randn(6, 2, dtype=torch.float64) @ torch.randn(2, 5, dtype=torch.float64)
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(isotropic(matrix, None))
    torch.testing.assert_close(after[:2], before[:2].mean().expand(2))
    assert float(after[2:].abs().max()) < 1e-9
    up, down = best_factors(matrix, 2)
    torch.testing.assert_close(up @ down, matrix)
    assert rank_for_energy(matrix, 1.0) == 2
