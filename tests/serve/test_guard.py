"""Each guard against its attack, by raw ASGI: what a test sends is what arrives, and it sees what the app was given."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fogtune.serve.guard import Guard
from fogtune.serve.keys import Keys, new_key
from fogtune.serve.loopback import is_loopback
from fogtune.serve.metrics import Metrics
from fogtune.serve.problems import Problem

LOCAL = {"host": "localhost:8000"}
PREDICT = "/v1/tasks/vqa:predict"


@dataclass
class App:
    """Answers 200; remembers what reached it."""

    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        self.paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"done"})


@dataclass
class Client:
    """What came back, and how many chunks of the body were taken."""

    status: int = 0
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    taken: int = 0

    def detail(self) -> str:
        assert self.headers["content-type"] == ["application/problem+json"]
        problem = json.loads(self.body)
        assert problem["status"] == self.status
        return str(problem["detail"])


async def send_to(
    app: ASGIApp,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "POST",
    chunks: tuple[bytes | None, ...] = (b"",),
    root_path: str = "",
    more_headers: tuple[tuple[bytes, bytes], ...] = (),
) -> Client:
    """One request. A chunk None: the client leaves; after the last one it stays silent."""
    client = Client()

    async def receive() -> Message:
        client.taken += 1
        if client.taken > len(chunks):
            await asyncio.Event().wait()
        chunk = chunks[client.taken - 1]
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": client.taken < len(chunks) or len(chunks) > 9}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            client.status = message["status"]
            for name, value in message["headers"]:
                client.headers.setdefault(name.decode().lower(), []).append(value.decode())
        else:
            client.body += message["body"]

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": root_path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()] + list(more_headers),
    }
    await app(scope, receive, send)
    return client


def call(app: ASGIApp, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> Client:
    return asyncio.run(send_to(app, path, headers, **more))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(lambda: ["vqa"])


@pytest.fixture
def make(metrics: Metrics) -> Callable[..., Guard]:
    """Makes a guard; without `keys` it is open."""

    def made(app: ASGIApp, keys: Keys | None = None, **changes: Any) -> Guard:
        defaults: dict[str, Any] = {"page": ("/", "/page.js"), "max_body_bytes": 10, "max_in_flight": 4}
        return Guard(app, keys=keys, metrics=metrics, **(defaults | changes))

    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def basic(key: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"me:{key}".encode()).decode()}


# Who


def test_a_key_opens_by_either_header(make: Callable[..., Guard], file: Path) -> None:
    app, key = App(), new_key(file, "me")
    guard = make(app, Keys.load(file))
    for headers in (bearer(key), {"authorization": f"bEARER {key}"}, {"x-api-key": key}):
        assert call(guard, PREDICT, headers).status == 200
    assert app.paths == [PREDICT] * 3


def test_without_a_key_nothing_reaches_the_app(make: Callable[..., Guard], file: Path) -> None:
    app, key = App(), new_key(file, "me")
    guard = make(app, Keys.load(file))
    stored = file.read_text().split("sha256: ")[1][:64]
    wrong = [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": key},
        {"x-api-key": ""},
        bearer(key[:-1]),
        bearer(stored),
        bearer("kéy"),
        basic(key),
        LOCAL,
        # A wrong key is not mended by a right one in the other place.
        bearer("wrong") | {"x-api-key": key},
    ]
    for headers in wrong:
        for path in (PREDICT, "/metrics", "/docs/", "/page.js/", "//", "/v2/health/live/../../v1/tasks"):
            answer = call(guard, path, headers, method="POST", chunks=(b"x" * 99,))
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == ["Bearer"]
            assert answer.taken == 0
            assert key not in answer.detail()
    assert app.paths == []


def test_open_paths_are_open_to_read_alone(make: Callable[..., Guard], file: Path) -> None:
    app = App()
    new_key(file, "me")
    guard = make(app, Keys.load(file))
    paths = ["/v2/health/live", "/v2/health/ready", "/", "/page.js"]
    for path in paths:
        assert call(guard, path, method="GET").status == 200
        assert call(guard, path, method="HEAD").status == 200
        assert call(guard, path, method="POST").status == 401
        # They read no body, so whoever has no key cannot fill memory through them.
        assert call(guard, path, method="GET", chunks=(b"x",)).status == 413
    assert set(app.paths) == set(paths)
    assert set(app.bodies) == {b""}


def test_a_browser_opens_docs_and_metrics_with_a_key_as_password(make: Callable[..., Guard], file: Path) -> None:
    key = new_key(file, "me")
    guard = make(App(), Keys.load(file))
    for path in ("/docs", "/docs/assets/swagger-ui.css", "/openapi.json", "/metrics"):
        refused = call(guard, path, method="GET")
        assert refused.status == 401
        assert refused.headers["www-authenticate"] == ["Bearer", 'Basic realm="FogTune: the key is the password"']
        assert call(guard, path, basic(key), method="GET").status == 200
        assert call(guard, path, basic(key[:-1]), method="GET").status == 401
        assert call(guard, path, {"authorization": "Basic ?"}, method="GET").status == 401
        # A browser sends what was entered here with requests of other sites, too; they may read, not write.
        assert call(guard, path, basic(key), method="POST").status == 401
    for path in ("/docsx", "/metrics/x", "/v1/tasks"):
        refused = call(guard, path, basic(key), method="GET")
        assert (refused.status, refused.headers["www-authenticate"]) == (401, ["Bearer"])


def test_only_an_admin_changes_what_is_served(make: Callable[..., Guard], file: Path) -> None:
    app, reader, admin = App(), new_key(file, "reader"), new_key(file, "boss", admin=True)
    guard = make(app, Keys.load(file))
    for path in ("/v1/versions:promote", "/v1/versions:rollback"):
        refused = call(guard, path, bearer(reader))
        assert refused.status == 403
        assert refused.detail() == "the key 'reader' may not change what is served: it has no admin"
        # Below a prefix the router sees the same path.
        assert call(guard, f"/fog{path}", bearer(reader), root_path="/fog").status == 403
    assert app.paths == []
    assert call(guard, "/v1/versions:promote", bearer(admin)).status == 200
    assert call(guard, "/v1/versions", bearer(reader), method="GET").status == 200


# From where


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8000", "127.0.0.1:8000", "127.8.9.1", "[::1]", "[::1]:8000", "[0:0:0:0:0:0:0:1]:1"]
)
def test_without_keys_this_machine_is_served(make: Callable[..., Guard], host: str) -> None:
    assert call(make(App()), "/v1/versions:promote", {"host": host}).status == 200
    assert call(make(App()), PREDICT, {"host": host, "origin": f"http://{host}"}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
        ),
        *("[::]", "[2001:db8::1]:80", "", ":8000", "localhost@evil.example", "evil.example@localhost", "[::1", "::1"),
        *("localhost:8000:1", "localhost evil.example", "localhost:x"),
    ],
)
def test_a_name_that_was_made_to_resolve_to_this_machine_is_not(make: Callable[..., Guard], host: str) -> None:
    app = App()
    for path in (PREDICT, "/", "/v2/health/live", "/docs"):
        answer = call(make(app), path, {"host": host}, method="GET")
        assert answer.status == 421
        assert "only localhost, 127.0.0.1 and [::1] are answered" in answer.detail()
    assert app.paths == []


def test_addresses_to_bind_to() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.255.0.1", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "fogtune.example", "127.1", "localhost.")))


def test_neither_no_host_nor_two(make: Callable[..., Guard]) -> None:
    guard = make(App())
    assert call(guard, PREDICT).status == 421
    assert call(guard, PREDICT, LOCAL, more_headers=((b"host", b"evil.example"),)).status == 421


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:3000", "http://localhost", "null", "", "http://127.0.0.1:8000"]
)
def test_a_page_of_another_site_changes_nothing(make: Callable[..., Guard], origin: str) -> None:
    app = App()
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = call(make(app), "/v1/versions:promote", LOCAL | {"origin": origin}, method=method)
        assert answer.status == 403
        assert "pages of other sites" in answer.detail()
    assert app.paths == []
    assert call(make(app), "/v1/versions", LOCAL | {"origin": origin}, method="GET").status == 200


def test_a_key_is_proof_enough_of_where_it_comes_from(make: Callable[..., Guard], file: Path) -> None:
    key = new_key(file, "me")
    headers = bearer(key) | {"host": "inside:8000", "origin": "https://fogtune.example"}
    assert call(make(App(), Keys.load(file)), PREDICT, headers).status == 200


# How often


def test_the_rate_is_exact_and_retry_after_is_kept(make: Callable[..., Guard], file: Path) -> None:
    key, other = new_key(file, "me", requests_per_s=0.5), new_key(file, "other", requests_per_s=0.5)
    file.write_text(file.read_text().replace("burst: 1\n", "burst: 2\n", 1))
    now_s = 100.0
    guard = make(App(), Keys.load(file), clock=lambda: now_s)

    def statuses(requests: int) -> list[int]:
        return [call(guard, PREDICT, bearer(key)).status for _ in range(requests)]

    assert statuses(3) == [200, 200, 429]
    refused = call(guard, PREDICT, bearer(key))
    assert refused.headers["retry-after"] == ["2"]
    assert refused.detail() == "more than 0.5 requests a second with the key 'me'"
    assert call(guard, PREDICT, bearer(other)).status == 200
    assert call(guard, "/v2/health/live", bearer(key), method="GET").status == 200
    now_s += 1.75
    assert statuses(1) == [429]
    now_s += 0.25
    assert statuses(2) == [200, 429]
    now_s += 1000.0
    assert statuses(3) == [200, 200, 429]


def test_gateways_share_the_rate(make: Callable[..., Guard], file: Path) -> None:
    key = new_key(file, "me", requests_per_s=4.0)  # and bursts of 8
    now_s = 0.0
    guard = make(App(), Keys.load(file), clock=lambda: now_s, replicas=4)
    assert [call(guard, PREDICT, bearer(key)).status for _ in range(3)] == [200, 200, 429]
    now_s += 1.0
    assert [call(guard, PREDICT, bearer(key)).status for _ in range(2)] == [200, 429]


def test_a_gateway_of_many_still_lets_one_through(make: Callable[..., Guard], file: Path) -> None:
    key = new_key(file, "me", requests_per_s=1.0)
    guard = make(App(), Keys.load(file), clock=lambda: 0.0, replicas=8)
    assert [call(guard, PREDICT, bearer(key)).status for _ in range(2)] == [200, 429]


def test_without_keys_there_is_no_rate(make: Callable[..., Guard]) -> None:
    guard = make(App(), clock=lambda: 0.0)
    assert {call(guard, PREDICT, LOCAL).status for _ in range(300)} == {200}


# How large


def test_a_body_that_fits_arrives_whole(make: Callable[..., Guard]) -> None:
    app = App()
    assert call(make(app), PREDICT, LOCAL | {"content-length": "10"}, chunks=(b"0123456789",)).status == 200
    assert call(make(app), PREDICT, LOCAL, chunks=(b"0123", b"", b"456", b"789")).status == 200
    assert app.bodies == [b"0123456789"] * 2


def test_a_body_declared_too_large_is_refused_unread(make: Callable[..., Guard]) -> None:
    app = App()
    for length in ("11", "9" * 4000):
        answer = call(make(app), PREDICT, LOCAL | {"content-length": length}, chunks=(b"x" * 11,))
        assert answer.status == 413
        assert answer.detail() == "a body of more than 10 bytes"
        assert answer.taken == 0
    assert app.bodies == []


@pytest.mark.parametrize("headers", [{}, {"content-length": "3"}, {"transfer-encoding": "chunked"}])
def test_a_body_is_cut_where_it_grows_too_large(make: Callable[..., Guard], headers: dict[str, str]) -> None:
    app = App()
    # An endless body: the third chunk is already too much, so no fourth is taken.
    answer = call(make(app), PREDICT, LOCAL | headers, chunks=(b"abcd",) * 50)
    assert answer.status == 413
    assert answer.taken == 3
    assert app.bodies == []


@pytest.mark.parametrize("length", ["x", "", "1.0", "9" * 5000])
def test_a_length_that_is_none(make: Callable[..., Guard], length: str) -> None:
    app = App()
    assert call(make(app), PREDICT, LOCAL | {"content-length": length}).status == 400
    assert app.bodies == []


def test_a_body_that_never_comes_gives_its_place_back(make: Callable[..., Guard]) -> None:
    app = App()
    guard = make(app, max_in_flight=1, body_timeout_s=0.0)
    answer = call(guard, PREDICT, LOCAL, chunks=())
    assert answer.status == 408
    assert answer.detail() == "the body did not come within 0 s"
    assert call(guard, PREDICT, LOCAL).status == 200
    assert app.bodies == [b""]


def test_a_client_that_leaves_is_not_answered(make: Callable[..., Guard], metrics: Metrics) -> None:
    app = App()
    guard = make(app, max_in_flight=1)
    assert call(guard, PREDICT, LOCAL, chunks=(b"abc", None)).status == 0
    assert app.bodies == []
    assert b'fogtune_requests_total{route="",status="499",task=""} 1.0' in metrics.text()
    assert call(guard, PREDICT, LOCAL).status == 200


# How many at once


def test_no_more_are_inside_at_once_than_fit(make: Callable[..., Guard], metrics: Metrics) -> None:
    inside: list[str] = []

    async def scenario() -> None:
        release = asyncio.Event()
        two_inside = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            inside.append(scope["path"])
            if len(inside) == 2:
                two_inside.set()
            if scope["path"] == PREDICT:
                await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        guard = make(slow, max_in_flight=2)
        first = [asyncio.create_task(send_to(guard, PREDICT, LOCAL)) for _ in range(2)]
        await two_inside.wait()
        assert b"fogtune_in_flight_requests 2.0" in metrics.text()
        refused = await asyncio.gather(*(send_to(guard, PREDICT, LOCAL) for _ in range(5)))
        assert [answer.status for answer in refused] == [503] * 5
        assert [answer.headers["retry-after"] for answer in refused] == [["1"]] * 5
        assert refused[0].detail() == "2 requests are being answered, which is all that fit"
        for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
            assert (await send_to(guard, path, LOCAL, method="GET")).status == 200
        release.set()
        assert [(await answer).status for answer in first] == [200, 200]
        assert (await send_to(guard, PREDICT, LOCAL)).status == 200
        assert b"fogtune_in_flight_requests 0.0" in metrics.text()

    asyncio.run(scenario())
    assert inside.count(PREDICT) == 3


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("broken")


async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise Problem(500, "too late")


def test_who_is_inside_when_it_closes_is_answered(make: Callable[..., Guard]) -> None:
    async def scenario() -> None:
        answering = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await answering.wait()
            await App()(scope, receive, send)

        guard = make(slow)
        first = asyncio.create_task(send_to(guard, PREDICT, LOCAL))
        await asyncio.sleep(0)
        assert guard.in_flight == 1
        guard.closed = True
        refused = await send_to(guard, PREDICT, LOCAL)
        assert (refused.status, refused.headers["retry-after"]) == (503, ["5"])
        assert refused.detail() == "the service ends"
        answering.set()
        assert (await first).status == 200
        assert guard.in_flight == 0
        assert (await send_to(guard, "/metrics", LOCAL, method="GET")).status == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(("app", "error"), [(broken, RuntimeError), (refusing, Problem)])
def test_a_failed_answer_gives_its_place_back(make: Callable[..., Guard], app: ASGIApp, error: type[Exception]) -> None:
    guard = make(app, max_in_flight=1)
    for _ in range(3):
        with pytest.raises(error):
            call(guard, PREDICT, LOCAL)


def test_a_cancelled_answer_gives_its_place_back(make: Callable[..., Guard]) -> None:
    async def scenario() -> int:
        inside = asyncio.Event()

        async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
            if inside.is_set():
                await App()(scope, receive, send)
            else:
                inside.set()
                await asyncio.Event().wait()

        guard = make(hanging, max_in_flight=1)
        request = asyncio.create_task(send_to(guard, PREDICT, LOCAL))
        await inside.wait()
        assert (await send_to(guard, PREDICT, LOCAL)).status == 503
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        return (await send_to(guard, PREDICT, LOCAL)).status

    assert asyncio.run(scenario()) == 200


# The rest


def test_every_answer_tells_browsers_to_trust_nothing_else(make: Callable[..., Guard]) -> None:
    for answer in (call(make(App()), PREDICT, LOCAL), call(make(App()), PREDICT, {"host": "evil.example"})):
        assert answer.headers["x-content-type-options"] == ["nosniff"]
        assert answer.headers["cross-origin-resource-policy"] == ["same-origin"]
        [policy] = answer.headers["content-security-policy"]
        assert "default-src 'self';" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
    own = App(headers=((b"Content-Security-Policy", b"default-src 'none'"),))
    assert call(make(own), "/", LOCAL).headers["content-security-policy"] == ["default-src 'none'"]


def test_websockets_are_closed_and_the_lifespan_passes(make: Callable[..., Guard]) -> None:
    seen: list[str] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def both() -> None:
        passes: Awaitable[None] = make(app)({"type": "lifespan"}, receive, send)
        await passes
        await make(app)({"type": "websocket", "path": "/", "headers": []}, receive, send)

    asyncio.run(both())
    assert seen == ["lifespan"]
    assert sent == [{"type": "websocket.close", "code": 1008}]
