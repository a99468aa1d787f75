"""The page at `/`, and the samples that it offers."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from .problems import responses
from .samples import Sample, Samples
from .service import Service

_FOLDER = Path(__file__).parent / "page"
_MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

PATHS = {
    "/" if path.name == "index.html" else f"/{path.name}": path
    for path in sorted(_FOLDER.iterdir())
    if path.suffix in _MEDIA_TYPES
}
"""Path of the URL -> file, for all that the page is made of; it holds nothing of the run, so it needs no key."""


class SampleList(BaseModel):
    """Samples to try; none where the run's data are not public."""

    samples: tuple[Sample, ...]


def routes(service: Service, samples: Samples) -> APIRouter:
    """Routes of the page's files, for GET and HEAD, and of the samples."""
    router = APIRouter()
    for url, path in PATHS.items():
        router.add_api_route(url, _file(path), methods=["GET", "HEAD"], include_in_schema=False)

    @router.get("/v1/tasks/{task}/samples", tags=["v1"], responses=responses(404, 503))
    async def list_samples(task: str) -> SampleList:
        """Held-out samples of a task with their true labels."""
        name = service.task(task).name
        return SampleList(samples=await run_in_threadpool(samples.of, name))

    return router


def _file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    media_type = _MEDIA_TYPES[path.suffix]
    headers = {"ETag": tag, "Cache-Control": "no-cache"}

    async def get(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return get
