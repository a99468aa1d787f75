"""The HTTP application as a whole, over the real model: what it promises in its OpenAPI description it keeps."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import just
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from fogtune.serve.keys import Keys, new_key
from fogtune.serve.local import local_service
from fogtune.serve.rows import Outcome, Row
from fogtune.serve.service import Overloaded, PredictRows, Service
from fogtune.serve.settings import Settings
from fogtune.serve.web import create_app

BASE = "http://localhost"
PREDICT = "/v1/tasks/topic:predict?variant=fog:fog-0"
EXAMPLES = 15
"""A kind of request; 1,000 have been tried."""
BODY = {"inputs": [{"text": "the team won"}]}


def app_over(run: Path, predict_rows: PredictRows | None = None, keys: Keys | None = None, **changes: Any) -> ASGIApp:
    service = local_service(Settings(run=str(run), **changes))
    if predict_rows:
        service = Service(service.catalogue, service.settings, predict_rows)
    return create_app(service, keys)


@pytest.fixture(scope="module")
def app(served: Path, tmp_path_factory: pytest.TempPathFactory) -> ASGIApp:
    # A copy: the fuzzer promotes versions.
    return app_over(Path(shutil.copytree(served, tmp_path_factory.mktemp("web") / "run")))


@pytest.fixture
def client(app: ASGIApp) -> Iterator[TestClient]:
    with TestClient(app, BASE) as client:
        yield client


@pytest.fixture(scope="module")
def described(app: ASGIApp, listening: Callable[..., AbstractContextManager[str]]) -> Iterator[Any]:
    """The description, of a server on a port."""
    with listening(app) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def answered(case: schemathesis.Case[Any], mode: GenerationMode) -> None:
    # That what has the right form may be refused is the service's right: an image that is none, a task that is none.
    excluded = ["positive_data_acceptance"]
    if mode is GenerationMode.POSITIVE and "task" in case.path_parameters:
        case.path_parameters |= {"task": "topic", "version": 2}  # or hardly any would get beyond it
        excluded.append("negative_data_rejection")  # a task made up may have been what was wrong
    checks: list[Any] = [CHECKS.get_one(name) for name in excluded]
    case.call_and_validate(excluded_checks=checks)


def test_no_request_breaks_the_service(described: Any) -> None:
    """No 5xx, and every answer is one that the description has: status, type of content, form."""
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) > 15
    for operation, mode in product(operations, GenerationMode):
        cases = operation.as_strategy(generation_mode=mode)
        fuzz = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        with suppress(Unsatisfiable):  # nothing about this request could be wrong
            fuzz(given(case=cases, mode=just(mode))(answered))()


def test_problems_name_the_field(client: TestClient) -> None:
    found = client.post(PREDICT, json={"inputs": [{"text": "a"}, {"image": "x"}]})
    assert found.status_code == 422
    assert found.headers["content-type"] == "application/problem+json"
    assert found.json()["errors"][0]["field"] == "inputs.1"
    assert "allowed of topic: text" in found.json()["detail"]
    found = client.post("/v1/tasks/topic:predict?variant=fog:nowhere", json=BODY)
    assert (found.status_code, found.json()["errors"][0]["field"]) == (404, "variant")
    assert client.post("/v1/tasks/nothing:predict", json=BODY).status_code == 404
    assert client.get("/nothing").headers["content-type"] == "application/problem+json"


def test_too_many_requests_for_the_model(served: Path) -> None:
    async def overloaded(_: Sequence[Row]) -> list[Outcome]:
        raise Overloaded("too many requests are waiting for the model")

    with TestClient(app_over(served, overloaded), BASE) as client:
        found = client.post(PREDICT, json=BODY)
    assert (found.status_code, found.headers["Retry-After"]) == (503, "1")


def test_a_model_that_does_not_answer_in_time(served: Path) -> None:
    async def never(_: Sequence[Row]) -> list[Outcome]:
        await asyncio.Event().wait()
        raise AssertionError

    with TestClient(app_over(served, never, timeout_s=0.05), BASE) as client:
        found = client.post(PREDICT, json=BODY)
    assert (found.status_code, found.json()["detail"]) == (504, "no answer within 0.05 s")


def test_a_failure_tells_nobody_how(served: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_: Sequence[Row]) -> list[Outcome]:
        raise ZeroDivisionError("secret")

    with TestClient(app_over(served, broken), BASE, raise_server_exceptions=False) as client:
        found = client.post(PREDICT, json=BODY)
    assert found.status_code == 500
    assert "secret" not in found.text
    assert "secret" in caplog.text


def test_a_module_that_cannot_be_loaded_any_more(copied: Path) -> None:
    """Damaged after it was verified: refused, and nothing else is served in its place."""
    with TestClient(app_over(copied), BASE) as client:
        file = copied / "modules/v2/fog-0/head/topic.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"?")
        assert client.post(PREDICT, json=BODY).status_code == 503
        assert client.post(PREDICT.replace("fog-0", "fog-1"), json=BODY).status_code == 200


def test_keys_guard_all_but_health_and_page(served: Path, tmp_path: Path) -> None:
    user, admin = (new_key(tmp_path / "keys.yaml", name, admin=name == "admin") for name in ("user", "admin"))
    with TestClient(app_over(served, keys=Keys.load(tmp_path / "keys.yaml")), "http://example.org") as client:
        assert client.get("/v2/health/live").status_code == client.get("/").status_code == 200
        for path in ("/v1/tasks", "/v2/models/topic", "/metrics", "/docs", "/openapi.json", "/v1/versions"):
            assert client.get(path).status_code == 401, path
        bearer = {"Authorization": f"Bearer {user}"}
        assert client.post(PREDICT, json=BODY, headers=bearer).status_code == 200
        promote = {"version": 2}
        assert client.post("/v1/versions:promote", json=promote, headers=bearer).status_code == 403
        bearer = {"Authorization": f"Bearer {admin}"}
        assert client.post("/v1/versions:promote", json={"version": 7}, headers=bearer).status_code == 422


def test_metrics_count_what_was_asked(client: TestClient) -> None:
    line = 'fogtune_predictions_total{task="topic",version="2"}'

    def predicted() -> float:
        return sum(float(found.split()[-1]) for found in client.get("/metrics").text.splitlines() if line in found)

    before = predicted()
    assert client.post(PREDICT + "&version=2", json={"inputs": [{"text": "a"}, {"text": "b"}]}).status_code == 200
    assert predicted() == before + 2


@pytest.mark.parametrize(
    "body",
    ['{"inputs": [' + "0," * 200_000 + "0]}", "{" + ",".join(f'"x{i}": 0' for i in range(100_000)) + "}"],
    ids=["wrong items", "unknown members"],
)
def test_an_answer_is_not_longer_for_more_that_is_wrong(client: TestClient, body: str) -> None:
    found = client.post(PREDICT, content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == 422
    assert len(found.content) < 2000


def test_a_sample_that_is_too_long_is_the_senders_fault(client: TestClient) -> None:
    found = client.post("/v1/tasks/exercise:predict", json={"inputs": [{"imu": [[0.0] * 6] * 5000}]})
    assert (found.status_code, found.json()["detail"]) == (
        422,
        "inputs: 625 tokens of imu; allowed: 512, the backbone's positions",
    )
