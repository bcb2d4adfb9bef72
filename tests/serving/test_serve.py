"""The real server, on loopback: it follows its folder, ends when it is asked to, and loses nothing when it is killed."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import petl
from tests.support import served
from tests.support.live_server import LiveServer, free_port, running, weights
from tests.support.zoo import make

pytest.importorskip("fastapi")
DEEP = pytest.mark.deep


def test_what_cant_be_served_is_said_before_anything_is_built(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(petl.StateError, match="can't listen on 127"):
        petl.serve(tmp_path, make(served.BASE), port=taken.getsockname()[1])
    wrong: dict[str, tuple[Any, ...]] = {"host": ("nowhere.invalid", 3), "port": (10**6, -1, "8000", True)}
    for key, values in wrong.items():
        for value in values:
            with pytest.raises(petl.PetlError, match="can't listen" if key == "host" else "port="):
                petl.serve(tmp_path / "none", make(served.BASE), **{"port": 0, key: value})
    with pytest.raises(petl.StateError, match="no folder"):
        petl.serve(tmp_path / "none", port=0)
    with pytest.raises(petl.StateError, match="--model NAME"):
        petl.serve(tmp_path, port=0)


def post(address: str, kind: str, data: bytes) -> httpx.Response:
    return httpx.post(f"{address}/predict", params={"task": kind}, content=data, timeout=120)


def until(question: Any) -> None:
    """Waits for what another process will do."""
    for _ in range(1200):
        if question():
            return
        time.sleep(0.1)
    raise AssertionError("it hasn't happened within two minutes")


@DEEP
def test_it_follows_its_folder_while_it_answers(tmp_path: Path) -> None:
    folder, away = tmp_path / "deltas", tmp_path / "away"
    folder.mkdir()
    away.mkdir()
    old, new = served.write(folder, "pets"), served.write(away, "pets", seed=5)
    served.write(away, "birds")
    data = served.image("pets")
    wanted = [served.expected(model, data)["confidence"] for model in (old, new)]
    with running(folder, weights(tmp_path), "--port", "0") as server:
        at = server.address
        assert httpx.get(f"{at}/health").json()["tasks"] == 1
        whole = (away / "birds.safetensors").read_bytes()
        (folder / "birds.safetensors").write_bytes(whole[: len(whole) // 2])
        until(lambda: httpx.get(f"{at}/tasks").json()["refused"])
        assert post(at, "birds", data).status_code == 404
        end, seen = threading.Event(), []

        def hammer(_: int) -> None:
            while not end.is_set():
                response = post(at, "pets", data)
                assert response.status_code == 200, response.text
                seen.append(response.json()["confidence"])

        with ThreadPoolExecutor(3) as pool:
            work = pool.map(hammer, range(3))
            (folder / "birds.safetensors").write_bytes(whole)
            (away / "pets.safetensors").rename(folder / "pets.safetensors")
            until(lambda: post(at, "birds", data).status_code == 200)
            until(lambda: seen[-1] == pytest.approx(wanted[1], rel=1e-4))
            end.set()
            assert [*work] == [None] * 3
        assert all(min(abs(value - one) for one in wanted) < 1e-4 for value in seen)  # each old or new, whole
        assert seen[0] == pytest.approx(wanted[0], rel=1e-4)
        (folder / "birds.safetensors").unlink()
        until(lambda: post(at, "birds", data).status_code == 404)
        assert post(at, "pets", data).status_code == 200
        with ThreadPoolExecutor(8) as pool:  # what was accepted is answered
            sent = [pool.submit(post, at, "pets", data) for _ in range(24)]
            until(lambda: any(one.done() for one in sent))
            server.end()
            found = [one for one in sent if one.exception() is None]
        assert found
        assert all(one.result().status_code == 200 for one in found)
        assert all(isinstance(one.exception(), httpx.TransportError) for one in sent if one not in found)
        assert any("task 'birds' is dropped" in line for line in server.said)
        assert not any("Traceback" in line for line in server.said)


@DEEP
def test_killed_under_load_and_started_again_no_answer_is_lost_or_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "deltas"
    folder.mkdir()
    models = {kind: served.write(folder, kind, seed=at) for at, kind in enumerate(served.KINDS)}
    asked = [(kind, served.image(kind, seed)) for seed in range(2) for kind in models]
    wanted = [served.expected(models[kind], data) for kind, data in asked]
    port, model = free_port(), weights(tmp_path)
    answers: list[tuple[int, dict[str, Any]]] = []
    failures, end = [0], threading.Event()

    def client(number: int) -> None:
        """Asks one after the other, each until it is answered."""
        turn = number
        while not end.is_set():
            turn = (turn + 1) % len(asked)
            while True:
                try:
                    response = post(f"http://127.0.0.1:{port}", *asked[turn])
                except httpx.TransportError:
                    failures[0] += 1
                    time.sleep(0.05)
                    continue
                assert response.status_code in (200, 503), response.text
                if response.status_code == 200:
                    answers.append((turn, response.json()))
                    break

    server = LiveServer(folder, model, "--port", str(port))
    with ThreadPoolExecutor(6) as pool:
        work = pool.map(client, range(0, 12, 2))
        try:
            for _ in range(2):
                count = len(answers)
                until(lambda count=count: len(answers) >= count + 40)
                server.kill()
                server = LiveServer(folder, model, "--port", str(port))
            count = len(answers)
            until(lambda: len(answers) >= count + 40)
        finally:
            end.set()
            result = [*work]
            server.kill()
    assert result == [None] * 6
    assert failures[0]
    assert {turn for turn, _ in answers} == {*range(len(asked))}
    for turn, found in answers:
        assert found["task"] == asked[turn][0]
        served.assert_same(found, wanted[turn])
