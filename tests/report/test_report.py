"""`petl.report`: what it measures, for which models and targets, and which files it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import petl
from petl.errors import DataError, PetlError, StateError
from petl.report.page import draw_page
from tests.support.report_pages import hostile_report

pytestmark = pytest.mark.deep  # the commands' tests go the same ways, shorter


SIZE = 64


def noise(count: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def three_classes(count: int = 18) -> TensorDataset:
    return TensorDataset(noise(count), torch.arange(count) % 3)


def wrapped(outputs: int, methods: Any = "norm") -> nn.Module:
    torch.manual_seed(0)
    return petl.wrap(timm.create_model("test_resnet"), methods, num_classes=outputs)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> petl.Report:
    return hostile_report(tmp_path_factory.mktemp("report"))


def test_the_numbers_are_in_the_json_and_the_page_is_drawn_from_it_alone(made: petl.Report) -> None:
    content = json.loads(made.json_path.read_text(encoding="utf-8"))
    assert content == made.to_json() and content["kind"] == "report"
    assert draw_page(content) == made.path.read_text(encoding="utf-8")
    assert 6 <= len(str(made).splitlines()) <= 12
    assert not [name for name, part in content.items() if isinstance(part, dict) and "why_not" in part]
    assert str(made.path.parent) not in made.json_path.read_text() + made.path.read_text(), "a folder of this machine"


def test_the_parts_agree_with_each_other(made: petl.Report) -> None:
    content = made.to_json()
    images, answers = content["images"], content["answers"]
    right = sum(one["target"] == one["predicted"] for one in images)
    assert answers["right"] == right and answers["accuracy"] == pytest.approx(right / len(images), abs=1e-5)
    assert sum(cell[2] for cell in answers["confusion"]) == len(images)
    assert all(images[row]["target"] != images[row]["predicted"] for row in answers["wrong"])
    sure = [images[row]["confidence"] for row in answers["wrong"]]
    assert sure == sorted(sure, reverse=True)
    measured = {one["name"]: one["value"] for one in content["metrics"]["figures"]}
    assert measured["accuracy"] == pytest.approx(answers["accuracy"], abs=1e-5)
    assert content["data"]["twins"]["equal"] == 1 and content["data"]["twins"]["labels_differ"] == 1
    assert content["data"]["unreadable_files"] == 1
    rows = content["depth"]["rows"]
    assert any(row["delta"] for row in rows) and rows[-1]["accuracy_before"] is not None
    assert all(-0.2 < row["cka"] <= 1.0001 for row in rows)
    assert set(content["maps"]["pca"]) == {"before", "after"} and content["maps"]["joint"]
    assert [len(content["looks"][when]) for when in ("before", "after")] == [len(content["looks"]["images"])] * 2


def test_the_model_and_random_numbers_are_as_before_and_equal_calls_are_equal(tmp_path: Path) -> None:
    model, data = wrapped(3), three_classes()
    model.train()
    values = {key: value.clone() for key, value in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    first = petl.report(model, data, tmp_path / "a.html", progress=False)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in values.items())
    assert modes == [module.training for module in model.modules()] and torch.equal(state, torch.get_rng_state())
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    assert petl.record(model) is not None and all(parameter.grad is None for parameter in model.parameters())
    again = petl.report(model, data, tmp_path / "b.html", progress=False)
    assert first.path.read_bytes() == again.path.read_bytes()


def test_before_any_training_nothing_has_changed(tmp_path: Path) -> None:
    found = petl.report(wrapped(3, "lora"), three_classes(), tmp_path / "page.html", progress=False).to_json()
    assert [row["cka"] for row in found["depth"]["rows"]] == pytest.approx(
        [1.0] * len(found["depth"]["rows"]), abs=1e-4
    )
    assert found["collapse"]["before"]["nc1"] == pytest.approx(found["collapse"]["after"]["nc1"], rel=1e-3)
    changes = [(row["change_before"], row["change_after"]) for row in found["bands"]["rows"]]
    assert [one for one, _ in changes] == pytest.approx([two for _, two in changes], rel=1e-3)


def unlabelled() -> tuple[Any, ...]:
    return wrapped(3), noise(12), {"collapse": "no labels", "metrics": "no labels"}


def several_labels() -> tuple[Any, ...]:
    labels = (torch.rand(16, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    return wrapped(4), TensorDataset(noise(16), labels), {"collapse": "several labels"}


def numbers() -> tuple[Any, ...]:
    return wrapped(1), TensorDataset(noise(16), torch.linspace(0, 5, 16)), {"collapse": "numbers"}


def five_bands() -> tuple[Any, ...]:
    model = wrapped(3, petl.Input(in_chans=5))
    return model, TensorDataset(noise(12, 5), torch.arange(12) % 3), {"why_no_before": "5 channels"}


def gray() -> tuple[Any, ...]:
    return wrapped(3, petl.Input(in_chans=1)), TensorDataset(noise(12, 1), torch.arange(12) % 3), {}


def no_blocks() -> tuple[Any, ...]:
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    return petl.wrap(nn.Sequential(*layers), "bias", head="4"), three_classes(12), {"looks": "no block"}


def another_classifier() -> tuple[Any, ...]:
    return (
        timm.create_model("test_vit", img_size=64),
        three_classes(12),
        {"metrics": "aren't for", "why_no_before": "isn't wrapped"},
    )


def one_image() -> tuple[Any, ...]:
    return wrapped(2), TensorDataset(noise(1), torch.tensor([0])), {"maps": "too few", "collapse": "four images"}


def of_a_loader() -> tuple[Any, ...]:
    return wrapped(3), DataLoader(three_classes(18), batch_size=4, shuffle=True), {}


def many_classes() -> tuple[Any, ...]:
    return wrapped(1000), TensorDataset(noise(40), torch.arange(40) * 25), {"collapse": "two images or more"}


CASES = [
    unlabelled,
    several_labels,
    numbers,
    five_bands,
    gray,
    no_blocks,
    another_classifier,
    one_image,
    of_a_loader,
    many_classes,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_does_not_apply_is_left_out_and_said(case: Any, tmp_path: Path) -> None:
    model, data, left_out = case()
    head = "4" if isinstance(model, nn.Sequential) else True
    made = petl.report(
        model, data, tmp_path / "page.html", head=head, images=40 if case is many_classes else 14, progress=False
    )
    content, page = made.to_json(), made.path.read_text(encoding="utf-8")
    for part, words in left_out.items():
        said = content[part] if isinstance(content[part], str) else content[part]["why_not"]
        assert words in said
    assert content["data"]["images"] <= 40 and len(content["images"]) == content["data"]["images"]
    assert "</html>" in page and "Traceback" not in page
    others = {"answers", "bands", "depth"} - {*left_out}
    assert not [part for part in others if "why_not" in content[part]]
    if case is many_classes:
        assert len(content["answers"]["shown"]) == 20 and "classes that are mixed up most" in page


def test_files_that_are_no_report_stay(tmp_path: Path) -> None:
    model, page = wrapped(3), tmp_path / "pets.html"
    page.write_text("<h1>mine</h1>")
    with pytest.raises(StateError, match=r"pets\.html exists and is no report.*overwrite=True"):
        petl.report(model, three_classes(), page)
    page.unlink()
    (tmp_path / "pets.json").write_text('{"kind": "ranking"}')
    with pytest.raises(StateError, match=r"pets\.json exists and is no report"):
        petl.report(model, three_classes(), page)
    (tmp_path / "pets.json").write_text('{"kind": "report", "start": {"kind": "start"}}')
    with pytest.raises(StateError, match=r"pets\.json exists and is no report.*overwrite=True"):  # petl.start's
        petl.report(model, three_classes(), page)
    assert "start" in (tmp_path / "pets.json").read_text() and not page.exists()
    with pytest.raises(StateError, match=r"doesn't end in \.html"):
        petl.report(model, three_classes(), tmp_path / "pets")
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="can't write"):
        petl.report(model, three_classes(), tmp_path / "file" / "pets.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "pets.json"]
    made = petl.report(model, three_classes(12), page, overwrite=True, base=False, progress=False)
    assert petl.report(model, three_classes(12), page, base=False, progress=False).path == made.path, (
        "its own are replaced"
    )
    assert "base=False" in made.to_json()["why_no_before"]


def test_bad_input_is_refused_before_the_work(tmp_path: Path) -> None:
    model, data, page = wrapped(3), three_classes(), tmp_path / "page.html"
    refused: list[tuple[dict[str, Any], str]] = [
        ({"images": 0}, "images=0"),
        ({"base": "yes"}, "base='yes'"),
        ({"findings": tmp_path / "none.json"}, "can't be read as JSON"),
        ({"findings": {"kind": "report"}}, "kind 'report'"),
        ({"findings": 3}, "findings holds a int"),
        ({"history": tmp_path / "none.json"}, "can't be read"),
        ({"history": {"epochs": 3}}, "no rows of epochs"),
        ({"delta": tmp_path / "none.safetensors"}, "is no file"),
        ({"batch_size": 0}, "batch_size=0"),
    ]
    for options, words in refused:
        with pytest.raises(PetlError, match=words):
            petl.report(model, data, page, **options)
    with torch.no_grad():
        model.get_parameter(
            "conv1.0.weight" if "conv1.0.weight" in dict(model.named_parameters()) else "conv1.weight"
        ).fill_(float("nan"))
    with pytest.raises(DataError, match="diverged"):
        petl.report(model, data, page, base=False, progress=False)
    assert not list(tmp_path.iterdir())


def test_findings_of_files_folders_and_objects(tmp_path: Path) -> None:
    from petl.report.findings_facts import findings_facts

    ranking = {
        "kind": "ranking",
        "petl": "0",
        "best": "a",
        "unknown": {"deep": [1]},
        "rows": [{"name": "a", "score": 0.5}, {"name": "b"}],
    }
    (tmp_path / "r.json").write_text(json.dumps(ranking))
    (tmp_path / "s.json").write_text(json.dumps({"kind": "shift", "sentences": ["Appearance changed."], "p": 0.01}))
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    shift, *rest = findings_facts([{"kind": "shift"}]), *findings_facts(tmp_path)
    assert [one["kind"] for one in rest] == ["ranking", "shift"] and shift[0]["tables"] == []
    assert rest[0]["tables"][0] == {
        "title": "rows",
        "columns": ["name", "score"],
        "rows": [["a", 0.5], ["b", None]],
        "of": 2,
    }
    assert ["best", "a"] in rest[0]["facts"] and rest[1]["sentences"] == ["Appearance changed."]
