"""The application's answers: those of `petl.predict`, for every kind of task and image; everything else is one sentence."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import re
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import petl
import petl.serving
from petl.serving.posting import read_posted
from petl.serving.service import Service
from tests.support import served
from tests.support.zoo import make

pytest.importorskip("fastapi")
LIMITS: dict[str, Any] = {"poll_s": 3600.0, "max_body": 200_000, "max_pixels": 100_000, "max_queue": 8}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, torch.nn.Module]]]:
    """An application with a task of each kind, and their models."""
    folder = tmp_path_factory.mktemp("deltas")
    models = {kind: served.write(folder, kind, seed=at) for at, kind in enumerate(served.KINDS)}
    (folder / "broken.safetensors").write_bytes(b"no delta")
    app = petl.serving.app(folder, make(served.BASE), device="cpu", **LIMITS)
    app.state.service.catalogue._watch.settle_s = 0.0
    app.state.service.catalogue.update()
    yield app, models
    app.state.service.stop()


def ask(app: Any, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    """Sends requests (method, address, options) at once."""

    async def all_at_once() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://petl") as client:
            return await asyncio.gather(*(client.request(method, path, **more) for method, path, more in requests))

    return asyncio.run(all_at_once())


def posted(app: Any, path: str, data: bytes = b"", **more: Any) -> httpx.Response:
    return ask(app, ("POST", path, {"content": data, **more}))[0]


def test_every_kind_of_task_answers_as_predict_does(site: Any) -> None:
    app, models = site
    pairs = [(kind, seed) for seed in range(1) for kind in served.KINDS]
    requests = [("POST", f"/predict?task={kind}", {"content": served.image(kind, seed)}) for kind, seed in pairs]
    for (kind, seed), response in zip(pairs, ask(app, *requests), strict=True):
        assert response.status_code == 200, response.text
        assert response.json()["task"] == kind
        served.assert_same(response.json(), served.expected(models[kind], served.image(kind, seed)))
    rows = ask(app, ("GET", "/metrics", {}))[0].text
    assert 'petl_rows_total{path="segments"}' in rows  # different tasks, in one pass


def test_forms_fields_and_how_many_labels(site: Any) -> None:
    app, models = site
    data = served.image("pets")
    form = {"files": {"image": ("cat.png", data, "image/png")}}
    requests = [
        ("POST", "/predict", {**form, "data": {"task": "pets", "top": "2", "probabilities": "true"}}),
        ("POST", "/predict/pets?top=2&probabilities=1", {"content": data, "headers": {"content-type": "image/png"}}),
        ("POST", "/predict?task=pets&top=2&probabilities=yes", form),
    ]
    for response in ask(app, *requests):
        assert response.status_code == 200, response.text
        served.assert_same(
            {**response.json(), "probabilities": 0},
            {**served.expected(models["pets"], data, top=2, probabilities=True), "probabilities": 0},
        )
        assert [*response.json()["probabilities"]] == ["cat", "dog", "eel"]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"


def bomb() -> bytes:
    """A small file that is a large image."""
    return served.encoded(Image.new("L", (2000, 2000)))


def header_alone() -> bytes:
    """An array's header, with far more numbers than memory holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (3, 10**6, 10**6)})
    return file.getvalue()


def test_what_is_wrong_is_one_sentence(site: Any) -> None:
    app, _ = site
    good = served.image("pets")
    raw, form = {"content": good}, {"files": {"image": ("cat.png", good)}}
    two = {"files": [("image", ("1.png", good)), ("image", ("2.png", good))]}
    post: dict[str, tuple[str, dict[str, Any], int, str]] = {
        "no image": ("/predict?task=pets", {"content": b"hello, world"}, 422, "can't be read: no image"),
        "cut off": ("/predict?task=pets", {"content": good[:2000]}, 422, "can't be read"),
        "other channels": ("/predict?task=bands", raw, 422, "12 channels"),
        "NaN": ("/predict?task=bands", {"content": nan()}, 422, "NaN"),
        "unknown": ("/predict?task=pet", raw, 404, "near names: pets"),
        "strange": ("/predict?task=%00%1b[2J", raw, 404, "x1b"),
        "refused": ("/predict?task=broken", raw, 404, "GET /tasks says why"),
        "no task": ("/predict", raw, 400, "names no task"),
        "two tasks": ("/predict/pets?task=birds", raw, 400, "said twice"),
        "empty": ("/predict?task=pets", {"content": b""}, 400, "no image in it"),
        "empty file": ("/predict?task=pets", {"files": {"image": ("cat.png", b"")}}, 400, "no image in it"),
        "no file": ("/predict?task=pets", {"files": {"x": (None, "y")}}, 400, "0 files|'x'"),
        "two files": ("/predict?task=pets", two, 400, "2 files"),
        "no boundary": ("/predict?task=pets", typed("multipart/form-data"), 400, "form can't be read"),
        "no form": ("/predict?task=pets", typed("multipart/form-data; boundary=x"), 400, "form"),
        "json": ("/predict?task=pets", typed("application/json"), 415, "'application/json'"),
        "curl -d": ("/predict?task=pets", typed("application/x-www-form-urlencoded"), 415, "octet-stream"),
        "zipped": ("/predict?task=pets", {**raw, "headers": {"content-encoding": "gzip"}}, 415, "gzip"),
        "large": ("/predict?task=pets", {"content": bytes(200_001)}, 413, "200,000 bytes"),
        "large, in parts": ("/predict?task=pets", {"content": parts()}, 413, "200,000 bytes"),
        "large form": ("/predict?task=pets", {"files": {"image": ("x", bytes(200_001))}}, 413, "200,000 bytes"),
        "bomb": ("/predict?task=pets", {"content": bomb()}, 413, "4,000,000 numbers"),
        "array": ("/predict?task=bands", {"content": header_alone()}, 413, "3,000,000,000,000 numbers"),
        "other program's": ("/predict?task=pets", {"content": EPS}, 422, "format EPS"),
        "top": ("/predict?task=pets&top=0", raw, 400, "top='0'"),
        "flag": ("/predict?task=pets&probabilities=maybe", raw, 400, "true or false"),
        "unknown field": ("/predict?task=pets&tpo=3", raw, 400, "near names: top"),
        "nowhere": ("/predictions", raw, 404, "no '/predictions' here"),
        "a GET's": ("/tasks", form, 405, "doesn't take 'POST'"),
    }
    for what, (path, more, status, words) in post.items():
        response = ask(app, ("POST", path, more))[0]
        assert response.status_code == status, (what, response.text)
        assert response.headers["content-type"] == "application/json", what
        assert [*response.json()] == ["error"], what
        assert re.search(words, response.json()["error"]), (what, response.text)
        assert "\n" not in response.json()["error"]
        assert "Traceback" not in response.text
    assert ask(app, ("GET", "/predict", {}))[0].status_code == 405


def nan() -> bytes:
    file = io.BytesIO()
    np.save(file, np.full((12, 64, 64), np.nan, np.float32))
    return file.getvalue()


def typed(kind: str) -> dict[str, Any]:
    return {"content": served.image("pets"), "headers": {"content-type": kind}}


async def parts() -> Any:
    for _ in range(30):
        yield bytes(10_000)


def test_health_tasks_and_metrics(site: Any) -> None:
    app, _ = site
    health, tasks, metrics = ask(app, *(("GET", path, {}) for path in ("/health", "/tasks", "/metrics")))
    assert health.json() == {"status": "ok", "tasks": 7, "refused": 1}
    found = tasks.json()
    assert found["backbone"].startswith("test_resnet")
    assert [task["name"] for task in found["tasks"]] == sorted(served.KINDS)
    bands = found["tasks"][1]
    assert (bands["kind"], bands["methods"], bands["image"]) == (
        "classification",
        ["input", "lora"],
        {"channels": 12, "height": 64, "width": 64},
    )
    assert [one["file"] for one in found["refused"]] == ["broken.safetensors"]
    assert "no whole safetensors file" in found["refused"][0]["reason"]
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    line = re.compile(r'(# (HELP|TYPE) petl_\w+ .+|petl_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+-]+)')
    assert all(line.fullmatch(text) for text in metrics.text.splitlines())
    assert "petl_tasks 7" in metrics.text


def test_a_full_server_says_when_to_come_back(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = site
    running, run, gate = threading.Event(), Service.run, threading.Event()

    def held_up(self: Service, work: Any) -> Any:
        running.set()
        gate.wait(300)
        return run(self, work)

    monkeypatch.setattr(app.state.service.start().batcher, "run", lambda work: held_up(app.state.service, work))

    async def flood() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://petl") as client:
            send = lambda: client.post("/predict?task=pets", content=served.image("pets"))  # noqa: E731
            waiting = [asyncio.create_task(send()) for _ in range(LIMITS["max_queue"])]
            while app.state.service.in_flight < LIMITS["max_queue"]:
                await asyncio.sleep(0.01)
            refused = await send()
            gate.set()
            return [refused, *await asyncio.gather(*waiting)]

    refused, *answered = asyncio.run(flood())
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "8 requests are being answered" in refused.json()["error"]
    assert [response.status_code for response in answered] == [200] * 8
    assert len({response.text for response in answered}) <= 2  # rounding of the batch's size


def test_a_fault_of_ours_leaks_nothing(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = site

    def failing(*_: Any) -> Any:
        raise RuntimeError("/secret/place")

    monkeypatch.setattr(app.state.service.start().batcher, "run", failing)
    response = posted(app, "/predict?task=pets", served.image("pets"))
    assert response.status_code == 500
    assert response.json() == {"error": "the server failed on this request (RuntimeError); its log says more"}


def test_nothing_of_a_request_outlives_its_answer(
    site: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Images, bodies and outputs: those that are answered, refused, or fail; no cycle keeps them for the collector."""
    app, _ = site
    caplog.set_level("CRITICAL", "petl.serving")  # pytest keeps what is logged, with its traceback
    service, bodies = app.state.service, []
    read = read_posted

    async def noted(body: Any) -> Any:
        posted = await read(body)
        bodies.append(weakref.ref(posted))
        return posted

    def failing(work: Any) -> Any:
        raise RuntimeError(len(work))

    def all_kinds() -> None:
        assert {posted(app, f"/predict?task={kind}", served.image(kind)).status_code for kind in served.KINDS} == {200}
        requests = [("POST", f"/predict?task={kind}", {"content": served.image(kind)}) for kind in served.KINDS]
        assert {response.status_code for response in ask(app, *requests)} == {200}
        assert posted(app, "/predict?task=pets", b"no image").status_code == 422
        with monkeypatch.context() as patched:
            patched.setattr(service.start().batcher, "run", failing)
            assert {response.status_code for response in ask(app, *requests[:3])} == {500}

    def storages() -> set[int]:
        tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
        return {one.untyped_storage()._cdata for one in tensors}

    all_kinds()  # what is kept of a first batch is the tasks'
    monkeypatch.setattr("petl.serving.routes.read_posted", noted)
    gc.collect()
    gc.disable()
    try:
        before = storages()
        all_kinds()
        service.stop()  # so that its threads are between two batches
        assert not storages() - before
        assert not any(
            body() for body in bodies[: 2 * len(served.KINDS)]
        )  # a failed request's body lives until the collector runs
    finally:
        gc.enable()


def test_labels_that_utf8_cant_hold_are_answered(site: Any) -> None:
    app, _ = site
    service = app.state.service
    record = petl.record(service.catalogue.tasks["pets"].held.model)
    assert record is not None
    labels, record.labels = record.labels, ["\ud800", "é", "\x00"]
    try:
        response = posted(app, "/predict?task=pets&top=3", served.image("pets"))
        assert {one["label"] for one in json.loads(response.content)["predictions"]} == {"\ud800", "é", "\x00"}
    finally:
        record.labels = labels


def test_limits_that_cant_be_are_refused(tmp_path: Path) -> None:
    wrong: Any
    for wrong in ({"max_batch": 0}, {"max_wait_ms": -1}, {"max_body": 1.5}, {"max_bach": 3}):
        with pytest.raises(petl.PetlError, match="max_"):
            petl.serving.app(tmp_path, make(served.BASE), **wrong)
    with pytest.raises(petl.StateError, match="no folder"):
        petl.serving.app(tmp_path / "none", make(served.BASE))


def test_it_may_be_mounted_and_started_again(tmp_path: Path) -> None:
    from fastapi import FastAPI

    served.write(tmp_path, "pets")
    inner = petl.serving.app(tmp_path, make(served.BASE), device="cpu", poll_s=0.01)
    outer = FastAPI()
    outer.mount("/vision", inner)
    service = inner.state.service
    service.catalogue._watch.settle_s = 0.0
    service.catalogue.update()
    for _ in range(2):
        response = posted(outer, "/vision/predict/pets", served.image("pets"))
        assert response.status_code == 200, response.text
        service.stop()
