"""`petl.Tasks`: each task answers as a model of its own, whatever was added, removed or refused before, from any thread."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import petl
from petl.methods import registry
from tests.support.compare import differing, portrait, state
from tests.support.zoo import disturb, images, make

OURS = [name for name in registry.methods() if registry.methods()[name].__module__.startswith("petl.methods.")]
WAYS: dict[str, tuple[Any, dict[str, Any]]] = {name: (name, {}) for name in OURS if name not in ("peft", "bn")}
WAYS |= {
    "dora": (petl.LoRA(rank=2, dora=True), {}),
    "lora at the queries": (petl.LoRA(rank=3, slices="q"), {}),
    "all layers": (petl.Probe(layers="all"), {}),
    "several": ([petl.Input(in_chans=4), "norm", petl.LoRA(rank=1)], {}),
    "the base's classes": ("lora", {"num_classes": None}),
    "no classifier": ("norm", {"num_classes": None, "head": False}),
    "low base": (petl.LoRA(rank=2), {"base_dtype": torch.bfloat16}),
}


def trained(methods: Any, *, seed: int = 0, base: str = "vit", **options: Any) -> nn.Module:
    """A model with this delta, as after a training."""
    return disturb(petl.wrap(make(base), methods, **{"num_classes": 3 + seed % 4, **options}), seed=seed).eval()


@torch.no_grad()
def answer(model: nn.Module, name: str = "vit") -> Tensor:
    return model(images(name, petl.in_chans(model)))


@pytest.fixture(scope="module")
def alone() -> dict[str, nn.Module]:
    """One model for each way to make a delta."""
    return {way: trained(methods, seed=at, **opts) for at, (way, (methods, opts)) in enumerate(WAYS.items())}


@pytest.fixture(scope="module")
def together(alone: dict[str, nn.Module]) -> petl.Tasks:
    """All of them as tasks on one backbone."""
    tasks = petl.Tasks(make("vit"))
    for way, model in alone.items():
        tasks.add(way, model)
    return tasks


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[petl.Tasks, dict[str, Path]]]:
    """Two tasks from files."""
    paths = {way: petl.save(trained(way, seed=at), tmp_path / way) for at, way in enumerate(("lora", "probe"))}
    tasks = petl.Tasks(make("vit"))
    for way, path in paths.items():
        tasks.add(way, path)
    yield tasks, paths


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.sweep(8)
def test_a_task_answers_as_a_model_of_its_own(way: str, alone: dict[str, nn.Module], together: petl.Tasks) -> None:
    with together.use(way):
        assert together.current == way
        assert torch.equal(answer(together.model), answer(alone[way]))
    assert together.current is None
    assert petl.in_chans(together[way]) == petl.in_chans(alone[way])
    assert together.record(way).methods == petl.record(alone[way]).methods
    assert not any(p.requires_grad for p in together[way].parameters())


def test_the_bits_are_those_of_load_and_saving_gives_the_file_back(two: Any, tmp_path: Path) -> None:
    tasks, paths = two
    for way, path in paths.items():
        assert torch.equal(answer(tasks[way]), answer(petl.load(path, make("vit"))))
        assert petl.save(tasks[way], tmp_path / "again").read_bytes() == path.read_bytes()


def test_statistics_of_batchnorms_are_the_tasks_own() -> None:
    base = make("resnet")
    tasks, models = (
        petl.Tasks(base),
        {way: trained(way, seed=at, base="resnet") for at, way in enumerate(("bn", "lora"))},
    )
    with torch.no_grad():
        models["bn"].train()(images("resnet") + 1)
    models["bn"].eval()
    for way, model in models.items():
        tasks.add(way, model)
    for way, model in models.items():
        assert torch.equal(answer(tasks[way], "resnet"), answer(model, "resnet"))
    assert torch.equal(answer(base, "resnet"), answer(make("resnet"), "resnet"))


@pytest.mark.deep
def test_no_task_is_changed_by_others_that_come_and_go(two: Any) -> None:
    tasks, paths = two
    before = {way: answer(tasks[way]) for way in tasks}
    for name, method in (("norm", "norm"), ("full", "full"), ("adapter", "adapter")):
        tasks.add(name, trained(method, seed=7))
        assert all(torch.equal(answer(tasks[way]), before[way]) for way in before)
    for name in ("norm", "adapter", "full"):
        tasks.remove(name)
        assert all(torch.equal(answer(tasks[way]), before[way]) for way in before)
    tasks.add("lora", paths["probe"], replace=True)
    assert tasks.names == ["lora", "probe"]
    assert torch.equal(answer(tasks["lora"]), before["probe"])


def test_the_backbone_is_as_it_was_with_tasks_and_after_the_last(two: Any) -> None:
    tasks, paths = two
    base = make("vit").train()
    before = portrait(base)
    tasks = petl.Tasks(base)
    for way, path in paths.items():
        tasks.add(way, path)
    assert portrait(base) == before
    tasks.use("lora")
    for way in paths:
        tasks.remove(way)
    assert tasks.current is None
    assert tasks.model is base
    assert portrait(base) == before


def test_a_failing_add_leaves_everything_as_it_was(two: Any, tmp_path: Path) -> None:
    tasks, paths = two
    base = make("vit")
    tasks, before = petl.Tasks(base), portrait(base)
    tasks.add("lora", paths["lora"])
    answers = answer(tasks["lora"])
    (tmp_path / "cut").write_bytes(paths["lora"].read_bytes()[:-100])
    (tmp_path / "flipped").write_bytes(paths["lora"].read_bytes()[:-1] + b"\7")
    other = make("vit")
    with torch.no_grad():
        other.blocks[0].attn.qkv.weight[0, 0] += 1  # type: ignore[index, union-attr]  # a vit has them
    refused: dict[Any, tuple[type[petl.PetlError], str]] = {
        tmp_path / "none": (petl.DeltaError, "none"),
        tmp_path / "cut": (petl.DeltaError, "cut"),
        tmp_path / "flipped": (petl.DeltaError, "checksum"),
        petl.wrap(other, "norm", num_classes=2): (petl.DeltaError, "the model for task 'x' was made on"),
        trained("lora", base="resnet"): (petl.DeltaError, "another test_resnet"),
        make("vit"): (petl.StateError, "not wrapped"),
        3: (petl.DeltaError, "path"),
    }
    for delta, (error, words) in refused.items():
        with pytest.raises(error, match=words):
            tasks.add("x", delta)
    for name, words in (("lora", "replace=True"), ("", "name"), (None, "name")):
        with pytest.raises(petl.StateError, match=words):
            tasks.add(name, paths["probe"])  # type: ignore[arg-type]  # what is refused
    assert tasks.names == ["lora"]
    assert torch.equal(answer(tasks["lora"]), answers)
    assert portrait(base) == before


def test_memory_is_the_backbones_and_the_deltas(alone: dict[str, nn.Module]) -> None:
    base = make("vit")
    tasks, own = petl.Tasks(base), storages([base])
    for way in ("probe", "lora", "norm", "full"):
        tasks.add(way, alone[way])
        keys = petl.record(alone[way]).owned_keys
        added = sum(t.numel() * t.element_size() for key, t in alone[way].state_dict().items() if key in keys)
        assert storages([tasks[way]], but=own) == pytest.approx(added, abs=64)
        assert everything(tasks, way, base) < 2_000  # samples and statistics, one for all tasks
    kept = {*tasks["probe"].modules()} & {*tasks["norm"].modules()}
    assert len(kept) > 20  # what a delta doesn't change is one module for all


def storages(models: list[nn.Module], but: int | dict[int, int] = 0) -> Any:
    """The storages of the models' tensors with their sizes; with ``but`` the sum of those that aren't in it."""
    tensors = [t for model in models for t in (*model.parameters(), *model.buffers())]
    found = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return found if not isinstance(but, dict) else sum(size for key, size in found.items() if key not in but)


def everything(tasks: petl.Tasks, way: str, base: nn.Module) -> int:
    """Elements of tensors that a task's record holds beside the backbone's."""
    record = tasks.record(way)
    shared = storages([base])
    return sum(t.numel() for t in record.originals.values() if t.untyped_storage()._cdata not in shared)


def test_a_removed_task_is_freed(two: Any) -> None:
    import weakref

    tasks, _ = two
    model = weakref.ref(tasks["lora"])
    tasks.remove("lora")
    gc.collect()
    assert model() is None


def test_threads_have_their_own_tasks(alone: dict[str, nn.Module], together: petl.Tasks) -> None:
    ways = ("lora", "all layers", "norm", "adapter")
    wanted = {way: answer(alone[way]) for way in ways}
    start = threading.Barrier(len(ways) * 2)

    def run(way: str) -> bool:
        start.wait()
        together.use(way)
        return all(torch.equal(answer(together.model), wanted[way]) and together.current == way for _ in range(5))

    with ThreadPoolExecutor(len(ways) * 2) as pool:
        assert all(pool.map(run, ways * 2))
    assert together.current is None


def test_a_thread_that_has_chosen_nothing_is_told(together: petl.Tasks) -> None:
    def ask(choose: bool) -> Any:
        if choose:
            together.use(None)
        return together.model

    with together.use("lora"), ThreadPoolExecutor(1) as pool:
        with pytest.raises(petl.StateError, match="this thread has chosen no task"):
            pool.submit(ask, False).result()
        assert pool.submit(ask, True).result() is together._backbone.model


def test_asyncio_tasks_have_their_own_too(together: petl.Tasks) -> None:
    async def run(way: str) -> bool:
        with together.use(way):
            await asyncio.sleep(0)
            return together.current == way

    async def both() -> list[bool]:
        return await asyncio.gather(run("lora"), run("norm"))

    assert all(asyncio.run(both()))


def test_use_is_undone_at_the_end_also_by_an_error(together: petl.Tasks) -> None:
    together.use("norm")
    with together.use("lora"):
        with pytest.raises(ZeroDivisionError), together.use("bias"):
            raise ZeroDivisionError
        assert together.current == "lora"
    assert together.current == "norm"
    together.use(None)
    assert together.model is together._backbone.model


def test_unknown_tasks_and_removed_ones(two: Any) -> None:
    tasks, _ = two
    calls = (tasks.use, tasks.remove, tasks.record, tasks.labels, tasks.__getitem__)
    for call in calls:
        with pytest.raises(petl.StateError, match="near names: lora"):
            call("lorra")
    with pytest.raises(petl.StateError, match="there is no task 3"):
        tasks.use(3)
    tasks.use("lora")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(tasks.remove, "lora").result()
    with pytest.raises(petl.StateError, match="no task 'lora'"):
        tasks(images("vit"))
    assert "lora" not in tasks
    assert [*tasks] == ["probe"]


def test_a_task_model_refuses_what_would_change_the_others(two: Any) -> None:
    tasks, _ = two
    model, before = tasks["lora"], {way: answer(tasks[way]) for way in tasks}
    changes = {
        "half": model.half,
        "float64": lambda: model.to(torch.float64),
        "channels_last": lambda: model.to(memory_format=torch.channels_last),
        "meta": lambda: model.to("meta"),
        "train": model.train,
        "load_state_dict": lambda: model.load_state_dict(model.state_dict()),
        "merge": lambda: petl.merge(model),
        "unwrap": lambda: petl.unwrap(model),
        "rebase": lambda: petl.rebase(model),
        "fit": lambda: petl.fit(model, (images("vit"), torch.tensor([0, 1, 2])), epochs=1, progress=False),
        "wrap": lambda: petl.wrap(model, "bias"),
        "tasks of a task": lambda: petl.Tasks(model),
    }
    for what, change in changes.items():
        with pytest.raises(petl.StateError):
            pytest.fail(f"{what} was done: {change()}")
    model.to("cpu").float().eval()
    assert all(torch.equal(answer(tasks[way]), before[way]) for way in tasks)


def test_tasks_move_to_devices_alone(two: Any) -> None:
    tasks, _ = two
    before = {way: answer(tasks[way]) for way in tasks}
    for wrong in (torch.float16, "float16", "nowhere"):
        with pytest.raises(petl.StateError, match="expected a device"):
            tasks.to(wrong)
    assert tasks.to("cpu") is tasks
    tasks.predict(images("vit")[:2], [*before])
    assert tasks.to(torch.device("cpu")).hold("lora").changes == {}  # they hold tensors of the device before
    assert all(torch.equal(answer(tasks[way]), before[way]) for way in tasks)
    base = tasks._backbone.model
    assert storages([base]) == storages([tasks._backbone.trunk])
    with torch.no_grad():
        base.norm.weight.add_(1)
    with pytest.raises(petl.StateError, match="norm.weight"):
        tasks["lora"]


def test_a_write_to_the_backbone_is_noticed(two: Any) -> None:
    tasks, paths = two
    base, before = tasks._backbone.model, answer(tasks["lora"])
    old = state(base)
    with torch.no_grad():
        base.blocks[1].mlp.fc1.weight.mul_(2)
    for call in (
        lambda: tasks["lora"],
        lambda: tasks.predict(images("vit"), "probe"),
        lambda: tasks.add("x", paths["lora"]),
    ):
        with pytest.raises(petl.StateError, match=r"blocks.1.mlp.fc1.weight of the backbone changed"):
            call()
    base.load_state_dict(old)
    assert torch.equal(answer(tasks["lora"]), before)
    base.half()  # the user's own model goes its own way
    assert torch.equal(answer(tasks["lora"]), before)


def test_without_tasks_the_backbone_may_change() -> None:
    base = make("vit")
    tasks = petl.Tasks(base)
    with torch.no_grad():
        base.norm.weight.add_(1)
    changed = petl.wrap(copy.deepcopy(base), "probe", num_classes=2)
    tasks.add("probe", changed)
    assert torch.equal(answer(tasks["probe"]), answer(changed))


def test_a_copy_of_a_task_model_is_on_its_own(two: Any) -> None:
    tasks, _ = two
    for model in (copy.deepcopy(tasks["lora"]), pickle.loads(pickle.dumps(tasks["lora"]))):
        assert torch.equal(answer(model), answer(tasks["lora"]))
        assert not {*storages([model])} & {*storages([tasks["lora"]])}
        model.half()
        model.train()


def test_tasks_themselves_arent_copied(two: Any) -> None:
    tasks, _ = two
    for way in (copy.deepcopy, pickle.dumps):
        with pytest.raises(petl.StateError, match="copy.deepcopy\\(tasks"):
            way(tasks)


def test_a_part_in_training_mode_is_noticed_by_all_tasks(two: Any) -> None:
    tasks, paths = two
    before, model = {way: answer(tasks[way]) for way in tasks}, tasks["lora"]
    for part in (model.blocks[1].attn.attn_drop, model.blocks[0].attn.qkv.lora):  # the backbone's, and the task's own
        part.train()
        for call in (lambda: tasks["lora"], lambda: tasks.predict(images("vit"), "lora"), lambda: tasks.model):
            with tasks.use("lora"), pytest.raises(petl.StateError, match=r"blocks.* training mode.*tasks.eval\(\)"):
                call()
        assert tasks.eval() is tasks
        assert all(torch.equal(answer(tasks[way]), before[way]) for way in tasks)
    tasks.add("new", paths["probe"])


def test_a_switch_may_be_entered_again(together: petl.Tasks) -> None:
    switch = together.use("lora")
    with switch:
        with together.use("norm"):
            with switch:
                assert together.current == "lora"
            assert together.current == "norm"
        assert together.current == "lora"
    assert together.current is None
    with switch:
        assert together.current == "lora"
    assert together.current is None


def test_a_held_task_stays_as_it_was(two: Any) -> None:
    tasks, paths = two
    before, held, x = answer(tasks["lora"]), tasks.hold("lora"), images("vit")
    tasks.add("lora", paths["probe"], replace=True)
    new = answer(tasks["lora"])
    out = tasks.predict(x, [held, "lora", held], exact=True)
    assert out.tasks == ["lora"] * 3
    for row, wanted in zip(out, (before[0], new[1], before[2]), strict=True):
        assert (row - wanted).abs().max() < 1e-5 * wanted.abs().max()
    tasks.remove("lora")
    assert torch.equal(tasks.predict(x, held).padded(), before)
    other = petl.Tasks(make("vit"))
    with pytest.raises(petl.StateError, match="another petl.Tasks"):
        other.predict(x, held)


PEFTS: dict[str, dict[str, Any]] = {
    "LoHa": {"r": 2},
    "Lora": {"r": 2},
    "IA3": {"feedforward_modules": ["fc2"]},
    "OFT": {"r": 0, "oft_block_size": 4},
    "LoKr": {"r": 2},
}


@pytest.mark.deep
def test_pefts_methods_are_tasks_too(tmp_path: Path) -> None:
    models = {way: trained(f"peft:{way}", seed=at, **options) for at, (way, options) in enumerate(PEFTS.items())}
    base = make("vit")
    tasks, before = petl.Tasks(base), portrait(base)
    for way, model in models.items():
        tasks.add(way, petl.save(model, tmp_path / way) if way == "LoHa" else model)
    own = storages([base])
    for way, model in models.items():
        assert torch.equal(answer(tasks[way]), answer(model))
        added = sum(t.numel() * t.element_size() for t in petl.trainable(model).values())
        assert storages([tasks[way]], but=own) <= added + 4_000  # OFT has indices of its own
    names = [*models, "LoHa"]
    x = images("vit", batch=len(names))
    out = tasks.predict(x, names)
    assert {*out.paths} == {"grouped"}
    assert "another library's" in tasks.explain(x, names)["LoHa"]
    for row, name, image in zip(out, names, x, strict=True):
        with torch.no_grad():
            assert (row - models[name](image[None])[0]).abs().max() < 1e-5 * row.abs().max()
    with ThreadPoolExecutor(3) as pool:
        found = [*pool.map(lambda way: answer(tasks[way]), [*models] * 2)]
    assert all(torch.equal(one, answer(models[way])) for way, one in zip([*models] * 2, found, strict=True))
    assert torch.equal(answer(copy.deepcopy(tasks["OFT"])), answer(models["OFT"]))
    tasks.remove("LoHa")
    assert all(torch.equal(answer(tasks[way]), answer(models[way])) for way in tasks)
    assert portrait(base) == before


def test_predictions_and_hooks_work_as_on_any_model(two: Any, tmp_path: Path) -> None:
    tasks, _ = two
    base, calls = make("vit"), []
    base.blocks[1].register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index, union-attr]  # a vit has them
    tasks = petl.Tasks(base)
    tasks.add("pets", petl.save(trained("lora"), tmp_path / "pets", labels=["a", "b", "c"]))
    assert tasks.labels("pets") == ["a", "b", "c"]
    answer(tasks["pets"])
    assert calls == [1]
    predicted = petl.predict(tasks["pets"], images("vit"), progress=False)
    assert predicted.labels == ["a", "b", "c"]
    assert "1 tasks: pets" in repr(tasks)


@pytest.mark.parametrize(
    "name", [pytest.param("sequencer", marks=pytest.mark.deep), pytest.param("beit", marks=pytest.mark.deep), "coat"]
)
@pytest.mark.deep
def test_weights_read_in_other_ways_and_shared_modules(name: str) -> None:
    base, model = make(name), trained(petl.LoRA(rank=1), base=name)
    tasks, before = petl.Tasks(base), state(base)
    tasks.add("one", model)
    assert torch.equal(answer(tasks["one"], name), answer(model, name))
    assert not differing(before, state(base))


class Tied(nn.Module):
    """A model with one tensor at two places, a weight norm and a plain list of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.two.weight = self.one.weight
        self.narrow = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)
        self.order = [self.narrow, self.head]

    def forward(self, x: Tensor) -> Tensor:
        x = (self.one(x) + self.two(x)).mean((2, 3))
        for layer in self.order:
            x = layer(x)
        return x


@pytest.mark.sweep(1)
@pytest.mark.parametrize("methods", ["full", "lora", "bias"])
def test_a_model_that_isnt_timms(methods: str) -> None:
    base = Tied().eval()
    model = disturb(petl.wrap(copy.deepcopy(base), methods, head="head"))
    tasks = petl.Tasks(base)
    tasks.add("one", model)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(tasks["one"](x), model.eval()(x))
        assert torch.equal(tasks.predict(x, "one").padded(), model(x))
        assert torch.equal(tasks(x), base(x))


def test_no_plain_backbone_is_refused() -> None:
    with pytest.raises(petl.StateError, match="wrapped already"):
        petl.Tasks(petl.wrap(make("vit"), "probe"))
    with pytest.raises(petl.StateError, match="petl takes a model"):
        petl.Tasks("vit_small")  # type: ignore[arg-type]  # what is refused
