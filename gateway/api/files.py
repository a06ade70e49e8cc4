"""`/v1/files`, as OpenAI has them: what a client sends to train on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from gateway.api.body import read_body
from gateway.api.pages import page_of
from gateway.chat import Json
from gateway.errors import InvalidRequest, NotFound
from gateway.live import Live
from gateway.runtime import Runtime
from gateway.store.training_rows import StoredFile
from gateway.trace import new_id
from gateway.training.pairs import read_pairs

PURPOSES = ("fine-tune",)
MOST = 10_000


def files(live: Live, runtime: Runtime) -> APIRouter:
    router, trainer = APIRouter(prefix="/v1/files"), runtime.trainer

    async def own(request: Request, id: str, *, whole: bool = False) -> StoredFile:
        file = await trainer.store.file(id, request.scope["gateway"]["key"], whole=whole)
        if file is None:
            raise NotFound(f"there is no file '{id[:64]}'", param="file_id")
        return file

    @router.post("")
    async def upload(request: Request) -> JSONResponse:
        """A form with `file` and `purpose`. Examples are read at once, so that a fault is told now."""
        body = await read_body(request.scope, request.receive, live.body_limit_bytes)
        async with _form(request, body) as form:
            purpose, file = form.get("purpose"), form.get("file")
            if purpose not in PURPOSES:
                raise InvalidRequest(f"'purpose' must be one of: {', '.join(PURPOSES)}", param="purpose")
            if not isinstance(file, UploadFile):
                raise InvalidRequest("'file' must be a file", param="file")
            content, name = await file.read(), (file.filename or "file.jsonl")[:200]
        await asyncio.to_thread(read_pairs, content, "file")
        key = request.scope["gateway"]["key"]
        stored = await trainer.store.put_file(f"file-{new_id()[-24:]}", key, str(purpose), name, content)
        return JSONResponse(_told(stored))

    @router.get("")
    async def listed(
        request: Request, purpose: str | None = None, after: str | None = None, limit: int = MOST, order: str = "desc"
    ) -> JSONResponse:
        found = [_told(file) for file in await trainer.store.files(request.scope["gateway"]["key"], purpose)]
        return JSONResponse(page_of(found if order != "asc" else found[::-1], after, limit, MOST))

    @router.get("/{id}")
    async def retrieve(request: Request, id: str) -> JSONResponse:
        return JSONResponse(_told(await own(request, id)))

    @router.get("/{id}/content")
    async def content(request: Request, id: str) -> Response:
        file = await own(request, id, whole=True)
        return Response(file.content, media_type="application/octet-stream")

    @router.delete("/{id}")
    async def delete(request: Request, id: str) -> JSONResponse:
        await own(request, id)
        await trainer.store.delete_file(id, request.scope["gateway"]["key"])
        return JSONResponse({"id": id, "object": "file", "deleted": True})

    return router


@asynccontextmanager
async def _form(request: Request, body: bytes) -> AsyncIterator[FormData]:
    """Raises: InvalidRequest."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidRequest("a file comes as multipart/form-data, with 'file' and 'purpose'", param="file")

    async def stream() -> AsyncIterator[bytes]:
        yield body
        yield b""

    parser = MultiPartParser(request.headers, cast(AsyncGenerator[bytes, None], stream()), max_part_size=len(body) + 1)
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        raise InvalidRequest(f"the form cannot be read: {exc.message}", param="file") from None
    try:
        yield form
    finally:
        await form.close()


def _told(file: StoredFile) -> Json:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
