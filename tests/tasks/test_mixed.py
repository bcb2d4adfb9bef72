"""Batches in which each row has its own task: equal to one by one, in one pass of the backbone where that is possible."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import petl
from tests.support.zoo import disturb, images, make

DEEP = pytest.mark.deep
CLOSE = 1e-5  # of the largest output

SEGMENTS: dict[str, Any] = {
    "lora": petl.LoRA(rank=2, where=("linear", "conv", "depthwise")),
    "rank 5": petl.LoRA(rank=5, alpha=3.0),
    "norm": "norm",
    "bias": "bias",
    "lora and bias": ["bias", petl.LoRA(rank=1)],
    "dora": petl.LoRA(rank=2, dora=True),
    "probe": "probe",
    "last block": "partial",
}
GROUPED: dict[str, Any] = {"adapter": "adapter", "all layers": petl.Probe(layers="all"), "full": "full"}


def many(base: str, methods: dict[str, Any], **options: Any) -> petl.Tasks:
    """A task for each of these methods, with different numbers of classes."""
    tasks = petl.Tasks(make(base))
    for at, (name, method) in enumerate(methods.items()):
        tasks.add(name, disturb(petl.wrap(make(base), method, **{"num_classes": 2 + at, **options}), seed=at))
    return tasks


def one_by_one(tasks: petl.Tasks, x: Tensor, names: list[str]) -> list[Tensor]:
    """What each task's own model answers for its rows."""
    found: dict[int, Tensor] = {}
    for name in dict.fromkeys(names):
        rows = [row for row, other in enumerate(names) if other == name]
        with torch.no_grad(), tasks.use(name):
            out = tasks(x[rows])
        found |= dict(zip(rows, out, strict=True))
    return [found[row] for row in range(len(names))]


def batch(base: str, count: int) -> Tensor:
    return images(base, batch=count)


def assert_alike(one: list[Tensor], other: list[Tensor], exact: bool = False, close: float = CLOSE) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert torch.equal(a, b) if exact else (a - b).abs().max() <= close * b.abs().max()
        assert a.argmax() == b.argmax()


@pytest.fixture(scope="module")
def vit() -> petl.Tasks:
    return many("vit", SEGMENTS | GROUPED)


def test_every_kind_of_task_in_one_batch(vit: petl.Tasks) -> None:
    names = [*SEGMENTS, *GROUPED, *reversed(SEGMENTS), "lora"]
    x = batch("vit", len(names))
    out, wanted = vit.predict(x, names), one_by_one(vit, x, names)
    assert isinstance(out, list)
    assert out.tasks == names
    assert out.paths == ["segments" if name in SEGMENTS else "grouped" for name in names]
    assert_alike(out, wanted)
    grouped = [row for row, path in enumerate(out.paths) if path == "grouped"]
    assert_alike([out[row] for row in grouped], [wanted[row] for row in grouped], exact=True)
    exact = vit.predict(x, names, exact=True)
    assert {*exact.paths} == {"grouped"}
    assert_alike(exact, wanted, exact=True)


def test_explain_says_why(vit: petl.Tasks) -> None:
    names = ["lora", "probe", "adapter", "full"]
    words = vit.explain(batch("vit", 4), names)
    assert [*words] == names
    assert words["lora"] == "segments: one pass of the backbone, with its changes of 13 layers on its rows"
    assert words["probe"].startswith("segments: one pass of the backbone, and its classifier")
    assert words["adapter"].startswith("grouped: adapter at blocks.0")
    assert vit.explain(batch("vit", 1), ["norm"])["norm"].startswith("grouped: no other task")


@pytest.mark.parametrize(
    "base",
    [
        "resnet",
        pytest.param("efficientnet", marks=DEEP),
        pytest.param("resnext", marks=DEEP),
        pytest.param("levit", marks=DEEP),
    ],
)
def test_convolutions_and_their_norms(base: str) -> None:
    methods = {name: SEGMENTS[name] for name in ("lora", "rank 5", "norm", "bias", "probe")}
    if base == "resnet":
        methods["bn"] = "bn"
    tasks, names = many(base, methods), [*methods, "lora", "norm"]
    x = batch(base, len(names))
    out = tasks.predict(x, names)
    assert {*out.paths} == {"segments"}
    # an untrained levit enlarges what is rounded off (its outputs reach 68,000): 2e-5 to 2e-4 of the largest output in float32
    assert_alike(out, one_by_one(tasks, x, names), close=1e-3 if base == "levit" else CLOSE)


@pytest.mark.parametrize(
    ("base", "method"),
    [("vit_relpos", "lora"), pytest.param("beit", "lora", marks=DEEP), pytest.param("sequencer", "bias", marks=DEEP)],
)
def test_layers_whose_rows_cant_be_told_apart_are_grouped(base: str, method: str) -> None:
    tasks = many(base, {"one": SEGMENTS[method], "other": SEGMENTS[method], "head": "probe", "head 2": "probe"})
    names = ["one", "other", "head", "one", "head 2"]
    x = batch(base, 5)
    out = tasks.predict(x, names)
    assert out.paths == ["grouped", "grouped", "shared", "grouped", "shared"]
    assert "one after the other" in tasks.explain(x, names)["one"]
    assert_alike(out, one_by_one(tasks, x, names))


def test_classifiers_share_one_pass() -> None:
    base, calls = make("vit"), []
    base.blocks[0].register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index, union-attr]  # a vit has them
    tasks = petl.Tasks(base)
    for at in range(4):
        tasks.add(str(at), disturb(petl.wrap(make("vit"), "probe", num_classes=2 + at), seed=at))
    names, x = ["3", "0", "1", "2", "0"], batch("vit", 5)
    tasks.predict(x, names)  # the first time also looks at the backbone
    calls.clear()
    out = tasks.predict(x, names)
    assert len(calls) == 1
    assert {*out.paths} == {"shared"}
    assert [len(row) for row in out] == [5, 2, 3, 4, 2]
    assert_alike(out, one_by_one(tasks, x, names))


def test_sizes_and_channels_may_differ_in_a_list() -> None:
    base = "resnet"
    tasks = many(base, {"rgb": "lora", "probe": "probe", "grey": [petl.Input(in_chans=1), "norm"]})
    x = [torch.randn(3, 64, 64), torch.randn(1, 48, 48), torch.randn(3, 80, 64), torch.randn(3, 64, 64)]
    names = ["rgb", "grey", "rgb", "probe"]
    out = tasks.predict(x, names)
    assert out.paths == ["segments", "grouped", "grouped", "segments"]
    for row, name in enumerate(names):
        with torch.no_grad():
            assert_alike([out[row]], [tasks[name](x[row][None])[0]])


def test_what_the_outputs_mean(vit: petl.Tasks) -> None:
    tasks = petl.Tasks(make("vit"))
    for name, task, classes, labels in (("pets", None, 3, ["cat", "dog", "eel"]), ("age", "regression", 1, None)):
        model = disturb(petl.wrap(make("vit"), "probe", num_classes=classes))
        petl.record(model).labels, petl.record(model).task = labels, task  # type: ignore[union-attr]  # it is wrapped
        tasks.add(name, model)
    out = tasks.predict(batch("vit", 2), ["pets", "age"])
    (pet,), (age,) = out.answers()
    assert pet["label"] == ["cat", "dog", "eel"][out[0].argmax()]
    assert pet["confidence"] == pytest.approx(float(out[0].softmax(0).max()))
    assert age["value"] == pytest.approx(float(out[1][0]))
    assert [answer["label"] for answer in out.answers(top=3)[0]] == sorted(
        ["cat", "dog", "eel"], key=lambda label: -float(out[0][["cat", "dog", "eel"].index(label)])
    )
    padded = out.padded()
    assert padded.shape == (2, 3)
    assert padded[1, 1:].tolist() == [float("-inf")] * 2
    assert torch.equal(padded[0], out[0])


@pytest.mark.parametrize("path", ["shared", "grouped"])
def test_a_task_for_retrieval_answers_as_predict_does(path: str) -> None:
    tasks, models = petl.Tasks(make("vit")), {}
    for at, (name, method) in enumerate((("look", "probe" if path == "shared" else "adapter"), ("pets", "probe"))):
        models[name] = disturb(petl.wrap(make("vit"), method, num_classes=3 + at), seed=at)
        petl.record(models[name]).task = "metric" if name == "look" else None
        tasks.add(name, models[name])
    x, names = batch("vit", 3), ["look", "pets", "look"]
    out = tasks.predict(x, names)
    assert out.paths == (["shared"] * 3 if path == "shared" else ["grouped"] * 3)
    assert [len(row) for row in out] == [3, 4, 3]
    wanted = petl.predict(models["look"], x, progress=False)
    found = out.answers()
    assert "label" in found[1][0]
    for row in (0, 2):
        assert found[row][0]["embedding"] == pytest.approx(wanted[row]["embedding"], rel=1e-4, abs=1e-5)


def test_wrong_batches_are_told_before_anything_runs(vit: petl.Tasks) -> None:
    x = batch("vit", 2)
    wrong: list[tuple[Any, Any, type[petl.PetlError], str]] = [
        (x, ["lora"], petl.StateError, "1 tasks for 2 images"),
        (x, ["lora", "nrom"], petl.StateError, "near names: norm"),
        (x, ["lora", 3], petl.StateError, "no task 3"),
        (x, None, petl.StateError, "one name for all"),
        (x[:0], [], petl.DataError, "at least one image"),
        ([], [], petl.DataError, "empty list"),
        (x[0], "lora", petl.DataError, "expected at least one image"),
        ([x], ["lora"], petl.DataError, "height, width"),
        (["cat.jpg"], ["lora"], petl.DataError, "a str"),
        ((255 * x).byte(), "lora", petl.DataError, "uint8"),
        (3, "lora", petl.DataError, "got a int"),
        (torch.randn(2, 3, 5, 5), ["lora", "norm"], petl.DataError, "task 'lora': .* can't take images"),
        (torch.randn(2, 1, 64, 64), ["lora", "norm"], petl.DataError, "task 'lora': its images have 3 channels"),
    ]
    for images_, names, error, words in wrong:
        with pytest.raises(error, match=words):
            vit.predict(images_, names)
    assert vit.predict(x, ["lora", "norm"]).paths == ["segments"] * 2


def test_other_precisions_are_grouped(vit: petl.Tasks) -> None:
    x, names = batch("vit", 2), ["lora", "norm"]
    with torch.autocast("cpu", torch.bfloat16):
        out = vit.predict(x, names)
        assert "autocast" in vit.explain(x, names)["lora"]
        assert_alike(out, one_by_one(vit, x, names), exact=True)
    assert out.paths == ["grouped"] * 2
    with torch.inference_mode():
        assert vit.predict(x, names).paths == ["segments"] * 2
    assert not any(row.requires_grad for row in vit.predict(x, names))


def test_threads_may_have_batches_at_once(vit: petl.Tasks) -> None:
    names = [["lora", "norm", "adapter"], ["dora", "lora", "probe"], ["bias", "all layers", "rank 5"]]
    x = batch("vit", 3)
    wanted = [one_by_one(vit, x, one) for one in names]

    def run(at: int) -> None:
        for _ in range(3):
            assert_alike(vit.predict(x, names[at]), wanted[at])

    with ThreadPoolExecutor(3) as pool:
        assert [*pool.map(run, range(3))] == [None] * 3


def test_a_task_that_replaces_another_is_used_at_once() -> None:
    tasks, x = many("vit", {"one": "lora", "other": "norm"}), batch("vit", 2)
    tasks.predict(x, ["one", "other"])
    tasks.add("one", disturb(petl.wrap(make("vit"), "bias", num_classes=9), seed=5), replace=True)
    out = tasks.predict(x, ["one", "other"])
    assert [len(row) for row in out] == [9, 3]
    assert_alike(out, one_by_one(tasks, x, ["one", "other"]))


class Mixing(nn.Module):
    """A backbone in two parts that turns the rows around, or centres each by all."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.num_classes = how, 4
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x).mean((2, 3))
        x = x - x.mean(0) if self.how == "centres" else x.flip(0) if self.how == "flips" else x
        if self.how == "interleaves":  # rows are the second dimension inside
            return self.body(torch.stack([x, 2 * x])).sum(0)
        x = self.body(x)
        return x.flip(0) if self.how == "flips" else x

    def forward_head(self, x: Tensor) -> Tensor:
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        out = self.forward_head(self.forward_features(x))
        return 2 * out if self.how == "doubles" else out


@pytest.mark.parametrize("how", ["flips", "centres", "interleaves", "doubles", "nothing"])
def test_a_backbone_that_mixes_rows_is_found_out(how: str) -> None:
    torch.manual_seed(0)
    base = Mixing(how).eval()
    tasks = petl.Tasks(base)
    for at, name in enumerate(("one", "other")):
        torch.manual_seed(0)
        model = petl.wrap(Mixing(how).eval(), petl.LoRA(rank=2, where="body"), head="head", num_classes=3 + at)
        tasks.add(name, disturb(model, seed=at))
    names, x = ["one", "other", "one", "other"], torch.randn(4, 3, 8, 8)
    out = tasks.predict(x, names)
    assert {*out.paths} == {"segments" if how == "nothing" else "grouped"}
    assert_alike(out, one_by_one(tasks, x, names))
