"""The routes of the server, and what each answers; the file needs fastapi, and is imported where it is there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from petl.serving.posting import Body, read_posted
from petl.serving.refusals import Refusal, quoted
from petl.serving.service import Service
from petl.version import __version__

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def site_of(service: Service) -> FastAPI:
    """Returns the application of a service; its life is the threads'."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, service.stop)

    site = FastAPI(title="petl serve", version=__version__, lifespan=lifespan, redoc_url=None)
    site.state.service = service
    _add_routes(site, service)
    _add_errors(site)
    return site


def _add_routes(site: FastAPI, service: Service) -> None:
    async def predict(request: Request) -> Response:
        return await _predict(service, request)

    async def tasks() -> Response:
        """The tasks that are served, and the files that are refused, each with the reason."""
        catalogue = service.catalogue
        refused = [{"file": name, "reason": why} for name, why in catalogue.refused.items()]
        return _json({"backbone": catalogue.backbone, "tasks": catalogue.described(), "refused": refused})

    async def health() -> Response:
        """Whether the server answers."""
        fault = service.fault
        said = {"tasks": len(service.catalogue.tasks), "refused": len(service.catalogue.refused)}
        return _json({"status": "ok", **said}) if not fault else _json({"error": fault}, 503)

    async def metrics() -> Response:
        """Counters in the text format of Prometheus."""
        return Response(service.counters.text(service.gauges()), media_type=METRICS_TYPE)

    body = {"requestBody": {"required": True, "content": _BODIES}, "parameters": _PARAMETERS}
    words = "The answer for one image: a body of its bytes, or a form with one file."
    for address in ("/predict", "/predict/{task}"):
        site.post(address, summary="Answer an image", description=words, openapi_extra=body)(predict)
    for function in (tasks, health, metrics):
        site.get(f"/{function.__name__}")(function)


_BINARY = {"type": "string", "format": "binary"}
_BODIES = {
    "application/octet-stream": {"schema": _BINARY},
    "multipart/form-data": {"schema": {"type": "object", "properties": {"image": _BINARY, "task": {"type": "string"}}}},
}
_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": kind}}
    for name, kind in (("task", "string"), ("top", "integer"), ("probabilities", "boolean"))
]


async def _predict(service: Service, request: Any) -> Any:
    start, status, name = time.perf_counter(), 500, ""
    body = Body(request, service.settings)
    try:
        with service.admitted():
            posted = await read_posted(body)
            task = service.task(posted.task)
            name = task.name
            answer = await service.answer(task, posted.image, posted.top, posted.probabilities)
        status = 200
        return _json(answer)
    except Refusal as refusal:
        status = refusal.status
        await body.drain()
        raise
    finally:
        service.counters.requests.add(name, str(status))
        service.counters.seconds.add(time.perf_counter() - start)


def _add_errors(site: FastAPI) -> None:
    """Makes every error one sentence as JSON; of an error of ours it says the kind alone."""

    async def refused(_: Any, error: Any) -> Any:
        return _json({"error": str(error)}, error.status, error.headers)

    async def of_http(request: Any, error: Any) -> Any:
        there = "POST an image to /predict?task=NAME, and GET /tasks, /health and /metrics"
        said = {
            404: f"there is no {quoted(request.url.path)} here: {there}",
            405: f"{request.url.path} doesn't take {quoted(request.method)}: {there}",
        }
        return _json({"error": said.get(error.status_code, str(error.detail))}, error.status_code, error.headers)

    async def of_ours(_: Any, error: Exception) -> Any:
        return _json({"error": f"the server failed on this request ({type(error).__name__}); its log says more"}, 500)

    site.add_exception_handler(Refusal, refused)
    site.add_exception_handler(HTTPException, of_http)
    site.add_exception_handler(Exception, of_ours)


def _json(value: Any, status: int = 200, headers: Any = None) -> Any:
    """Returns a response in ASCII: texts of a delta may hold what UTF-8 can't."""
    text = json.dumps(value, allow_nan=False)
    return Response(text, status, dict(headers or {}), "application/json")
