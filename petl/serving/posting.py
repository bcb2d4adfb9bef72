"""Reads what a client has posted, within limits: the bytes of one image, the task, and how the answer should look."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from petl.errors import near
from petl.serving.refusals import Refusal, quoted
from petl.serving.serving_settings import ServingSettings

FIELDS = ("task", "top", "probabilities")
RAW = ("", "application/octet-stream", "binary/octet-stream", "application/dicom", "application/x-npy")
FORM = "multipart/form-data"
LONGEST_FIELD = 10_000  # bytes of a form's field that is no file
DRAINED = 4  # times the largest body: what of a too large one is read and dropped, so that its sender hears why
WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Posted:
    """What a request asks for."""

    image: bytes
    task: str
    top: int | None = None
    probabilities: bool = False


class Body:
    """The body of a request of Starlette's, which is read within limits of size and time."""

    def __init__(self, request: Any, settings: ServingSettings) -> None:
        self.request, self.most, self.seconds = request, settings.max_body, settings.body_s
        self._parts = aiter(request.stream())
        self._end = time.monotonic() + settings.body_s
        self._seen, self._has_ended = 0, False

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Yields the body in its parts.

        Raises:
            Refusal: it is too large, or doesn't come in time.
        """
        length = self.request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self.most:
            raise _too_large(self.most)
        while (part := await self._next()) is not None:
            if self._seen > self.most:
                raise _too_large(self.most)
            yield part

    async def _next(self) -> bytes | None:
        try:
            part = await asyncio.wait_for(anext(self._parts), max(self._end - time.monotonic(), 0.001))
        except StopAsyncIteration:
            self._has_ended = True
            return None
        except (TimeoutError, asyncio.TimeoutError):
            self._has_ended = True  # for us
            raise Refusal(408, f"the body didn't come within {self.seconds:g} seconds") from None
        self._seen += len(part)
        return part

    async def drain(self) -> None:
        """Reads and drops what is left of a refused body: its sender may hear nothing while it still sends."""
        from starlette.requests import ClientDisconnect

        if "expect" in self.request.headers:  # its sender waits for leave
            return
        with contextlib.suppress(Refusal, ClientDisconnect):
            while not self._has_ended and self._seen <= self.most * DRAINED:
                await self._next()


async def read_posted(body: Body) -> Posted:
    """Returns what a request asks for.

    Raises:
        Refusal: it is no image and a task, too large, or too slow.
    """
    request = body.request
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    _refuse_kind(kind, request.headers.get("content-encoding", "identity").strip().lower())
    in_path = [("task", request.path_params["task"])] if "task" in request.path_params else []
    said = _checked_fields([*request.query_params.multi_items(), *in_path])
    if kind == FORM:
        image, fields = await _read_form(request.headers, body.parts())
        said = _checked_fields([*said.items(), *fields])
    else:
        image = b"".join([part async for part in body.parts()])
    if not image:
        raise Refusal(400, "the request has no image in it; send the bytes of an image file as its body, or in a form")
    if "task" not in said:
        raise Refusal(400, "the request names no task: POST /predict?task=NAME; GET /tasks lists them")
    return Posted(image, said["task"], _top(said.get("top")), _flag(said.get("probabilities", "false")))


def _refuse_kind(kind: str, encoding: str) -> None:
    if kind != FORM and kind not in RAW and not kind.startswith("image/"):
        raise Refusal(
            415,
            f"got the content type {quoted(kind)}; send an image's bytes as application/octet-stream or image/..., or a form as "
            f"{FORM} (curl -F image=@cat.jpg)",
        )
    if encoding != "identity":
        raise Refusal(415, f"got the content encoding {quoted(encoding)}; send the body as it is")


def _checked_fields(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Returns fields by name, or raises a Refusal for unknown ones, and for one that is said twice and differently."""
    found: dict[str, str] = {}
    for key, value in pairs:
        if key not in FIELDS:
            raise Refusal(400, f"got {quoted(key)}{near(key, FIELDS)}; a request has {', '.join(FIELDS)}")
        if found.setdefault(key, value) != value:
            raise Refusal(400, f"{key} is said twice: {quoted(found[key])} and {quoted(value)}")
    return found


def _top(text: str | None) -> int | None:
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text):
        return int(text)
    raise Refusal(400, f"top={quoted(text)}; expected a whole number above 0")


def _flag(text: str) -> bool:
    if text.lower() not in WORDS:
        raise Refusal(400, f"probabilities={quoted(text)}; expected true or false")
    return WORDS[text.lower()]


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most:,} bytes, the most that this server takes")


async def _read_form(
    headers: Mapping[str, str], stream: AsyncGenerator[bytes, None]
) -> tuple[bytes, list[tuple[str, str]]]:
    """Returns the one file in a form, and its other fields."""
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartParser

    limits: dict[str, Any] = {"max_files": 8, "max_fields": 8, "max_part_size": LONGEST_FIELD}
    try:
        form = await MultiPartParser(headers, stream, **limits).parse()  # type: ignore[arg-type]  # Starlette's headers
    except Refusal:
        raise
    except Exception as error:  # of a form that isn't whole, the parser raises anything
        said = str(error) or type(error).__name__
        raise Refusal(400, f"the form can't be read: {said[:300]}") from error
    async with contextlib.AsyncExitStack() as files:
        files.push_async_callback(form.close)
        fields = [(key, value) for key, value in form.multi_items() if isinstance(value, str)]
        posted = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(posted) != 1:
            raise Refusal(400, f"the form has {len(posted)} files; expected one: the image (curl -F image=@cat.jpg)")
        return await posted[0].read(), fields
