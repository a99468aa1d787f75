"""What every request passes before it reaches a route: who it is from, how often, how large, and whether there is room.

headers -> key, or loopback -> rate -> admin -> a place among those in flight -> the body, whole -> the app
Each step may refuse with a Problem, and only the last but one waits for the client. A place is freed when the answer
ends, however it ends. Plain ASGI; to see errors of the app itself it is wrapped around the app from outside:
`Guard(app, ...)`, not `app.add_middleware`.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from fastapi import status
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .keys import Key, Keys
from .loopback import check_local
from .metrics import Metrics
from .problems import Problem
from .rates import Bucket

STATUSES = (400, 401, 403, 408, 413, 421, 429, 503)
"""What a request may be refused with before any route sees it: routes declare them for OpenAPI."""
HEALTH = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths that need no key, for those who watch over the process."""
_BROWSED = re.compile(r"/docs(/.*)?|/openapi\.json|/metrics")
_ADMIN = "/v1/versions:"

_CLIENT_LEFT = 499
"""nginx's status for a client that left before it was answered; only the metrics see it."""
_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """ASGI middleware in front of a gateway.

    Without `keys` everybody is admitted who addresses this machine by a loopback name, and no page of another site;
    who starts such a service binds it to a loopback address. `page` are the paths of static files without data, which
    need no key. `replicas` gateways share a key's rate evenly. `clock` returns seconds and never runs backwards.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys | None,
        metrics: Metrics,
        page: Collection[str],
        max_body_bytes: int,
        max_in_flight: int,
        body_timeout_s: float = 30.0,
        replicas: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._open = HEALTH | frozenset(page)
        self._max_body_bytes = max_body_bytes
        self._max_in_flight = max_in_flight
        self._body_timeout_s = body_timeout_s
        self._replicas = replicas
        self._clock = clock
        self.in_flight = 0
        """Requests that are being answered."""
        self.closed = False
        """Whether those in flight are the last ones: the others are refused."""
        self._buckets: dict[str, Bucket] = {}
        """Name of a key -> its tokens; no larger than the file of keys."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": status.WS_1008_POLICY_VIOLATION})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_s = self._clock()
        path = _path(scope)
        answered = 0

        async def answer(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
                message = {**message, "headers": _secured(message.get("headers", ()))}
            await send(message)

        try:
            await self._admitted(path, scope, receive, answer)
        except Problem as problem:
            if answered:
                raise
            response = problem.response()
            if problem.status == status.HTTP_401_UNAUTHORIZED:
                response.headers.append("WWW-Authenticate", "Bearer")
                if _browsed(scope):
                    response.headers.append("WWW-Authenticate", 'Basic realm="FogTune: the key is the password"')
            await response(scope, receive, answer)
        finally:
            # The router has left its route in the scope, if there was one.
            route = getattr(scope.get("route"), "path", "")
            task = (scope.get("path_params") or {}).get("task", "")
            self._metrics.request(route, task, answered or _CLIENT_LEFT, self._clock() - began_s)

    async def _admitted(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        readable = scope["method"] in ("GET", "HEAD")
        is_open = path in self._open and readable
        if self._keys is None:
            check_local(headers, readable=readable)
        elif not is_open:
            key = _identified(self._keys, headers, browsed=_browsed(scope))
            self._check_rate(key)
            if path.startswith(_ADMIN) and not key.admin:
                raise Problem(403, f"the key {key.name!r} may not change what is served: it has no admin")
        # Health and metrics answer however full the service is, and nobody without a key takes a place from others.
        # None of them reads a body, so none is kept for them.
        small = is_open or path == "/metrics"
        with self._place(free=small):
            body = await self._body(headers, receive, 0 if small else self._max_body_bytes)
            if body is not None:
                await self._app(scope, _replay(body, receive), send)

    def _check_rate(self, key: Key) -> None:
        now_s = self._clock()
        if key.name not in self._buckets:
            burst = max(1.0, key.burst / self._replicas)
            self._buckets[key.name] = Bucket(key.requests_per_s / self._replicas, burst, now_s)
        wait_s = self._buckets[key.name].take(now_s)
        if wait_s:
            detail = f"more than {key.requests_per_s:g} requests a second with the key {key.name!r}"
            raise Problem(429, detail, retry_after_s=wait_s)

    @contextmanager
    def _place(self, *, free: bool) -> Iterator[None]:
        if free:
            yield
            return
        if self.closed:
            raise Problem(503, "the service ends", retry_after_s=5)
        if self.in_flight >= self._max_in_flight:
            raise Problem(
                503, f"{self._max_in_flight} requests are being answered, which is all that fit", retry_after_s=0.5
            )
        self.in_flight += 1
        self._metrics.in_flight.inc()
        try:
            yield
        finally:
            self.in_flight -= 1
            self._metrics.in_flight.dec()

    async def _body(self, headers: Headers, receive: Receive, limit_bytes: int) -> bytes | None:
        """The whole body; None if the client left. Counted as it comes, whatever its header says."""
        try:
            declared_bytes = int(headers.get("content-length", "0"))
        except ValueError as error:
            raise Problem(400, "Content-Length is no number") from error
        too_large = Problem(413, f"a body of more than {limit_bytes} bytes")
        if declared_bytes > limit_bytes:
            raise too_large
        body = bytearray()
        try:
            # A place is not for those who send slowly on purpose.
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > limit_bytes:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError as error:
            raise Problem(408, f"the body did not come within {self._body_timeout_s:g} s") from error


def _path(scope: Scope) -> str:
    """The path that the router sees: without the prefix below which the app is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _browsed(scope: Scope) -> bool:
    """Whether a person opens this in a browser, which can only ask for a name and a password."""
    return scope["method"] in ("GET", "HEAD") and _BROWSED.fullmatch(_path(scope)) is not None


def _identified(keys: Keys, headers: Headers, *, browsed: bool) -> Key:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    given = headers.get("x-api-key")
    if scheme.lower() == "bearer":
        given = credentials.strip()
    elif scheme.lower() == "basic" and browsed:
        given = _password(credentials)
    if given is None:
        raise Problem(401, "no API key; send it as 'Authorization: Bearer <key>' or as 'X-API-Key: <key>'")
    key = keys.find(given)
    if key is None:
        raise Problem(401, "no such API key")
    return key


def _password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the app a body that was read before; what the client does later comes from `receive`."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _secured(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """With the headers that tell a browser to trust nothing else; a route may have set a policy of its own."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    return given + [header for header in _SECURITY if header[0] not in names]
