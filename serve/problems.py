"""Errors over HTTP: problem details (RFC 9457), which name the field, its value and what is allowed.

Every error of the gateway leaves through here; no traceback ever does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MOST = 10
"""Fields that an answer names."""


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    """Its path, dotted: `inputs.0.image`, `variant`."""
    detail: str


class ProblemDetails(BaseModel):
    """The body of every error."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    error: str
    """The same as `detail`: clients of the Open Inference Protocol look here."""
    errors: list[FieldProblem] = []


class Problem(Exception):
    """A request that cannot be answered, with the status that says so."""

    def __init__(self, status: int, detail: str, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(status, detail, field, retry_after_s)
        self.status = status
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s

    def response(self) -> JSONResponse:
        """As HTTP; `Retry-After` in whole seconds, at least one."""
        errors = [FieldProblem(field=self.field, detail=self.detail)] if self.field else []
        after = {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}
        return _response(self.status, self.detail, errors, after)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares of the errors that it can give, for OpenAPI."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {status: {"model": ProblemDetails, "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    """Turn everything that goes wrong in `app` into problem details."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [FieldProblem(field=_path(found["loc"]), detail=str(found["msg"])) for found in error.errors()[:MOST]]
        detail = "; ".join(f"{found.field}: {found.detail}" for found in errors[:3])
        return _response(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return _response(error.status_code, detail, headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _response(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log says more")


def _path(location: Sequence[int | str]) -> str:
    """pydantic's location without the part of the request that it was in, unless that is all there is."""
    parts = [str(part) for part in location]
    return ".".join(parts[1:] if parts[0] in ("body", "query", "path", "header") and len(parts) > 1 else parts)


def _response(
    status: int, detail: str, errors: Sequence[FieldProblem] = (), headers: dict[str, str] | None = None
) -> JSONResponse:
    title = HTTPStatus(status).phrase
    body = ProblemDetails(title=title, status=status, detail=detail, error=detail, errors=list(errors))
    return JSONResponse(body.model_dump(), status, headers=headers, media_type=MEDIA_TYPE)
