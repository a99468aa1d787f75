"""What is counted, through real routes; and that no request can make new labels."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from fogtune.serve import metrics as served_metrics
from fogtune.serve import problems
from fogtune.serve.guard import Guard
from fogtune.serve.metrics import Metrics
from fogtune.serve.problems import Problem

Labels = frozenset[tuple[str, str]]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(lambda: ["vqa", "topic"])


@pytest.fixture
def client(metrics: Metrics) -> TestClient:
    app = FastAPI()
    problems.install(app)
    router = APIRouter(prefix="/v1")

    @router.post("/tasks/{task}:predict")
    async def predict(task: str) -> str:
        if task != "vqa":
            raise Problem(404, "no such task")
        return task

    @router.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret")

    app.include_router(router)
    app.include_router(served_metrics.routes(metrics))
    guard = Guard(app, keys=None, metrics=metrics, page=(), max_body_bytes=10, max_in_flight=1)
    return TestClient(guard, base_url="http://localhost", raise_server_exceptions=False)


def values(metrics: Metrics, name: str) -> dict[Labels, float]:
    """Labels -> value of the samples of one name."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        frozenset(sample.labels.items()): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def labels(**given: str) -> Labels:
    return frozenset(given.items())


def test_requests_are_counted_by_template(client: TestClient, metrics: Metrics) -> None:
    predict = "/v1/tasks/{task}:predict"
    for _ in range(2):
        assert client.post("/v1/tasks/vqa:predict").status_code == 200
    assert client.post("/v1/tasks/vqa:predict", content=b"x" * 11).status_code == 413
    for number in range(5):
        assert client.post(f"/v1/tasks/{number}:predict").status_code == 404
        assert client.get(f"/nowhere/{number}").status_code == 404
    assert values(metrics, "fogtune_requests_total") == {
        labels(route=predict, task="vqa", status="200"): 2,
        labels(route="", task="", status="413"): 1,
        labels(route=predict, task="", status="404"): 5,
        labels(route="", task="", status="404"): 5,
    }
    assert values(metrics, "fogtune_request_seconds_count") == {labels(route=predict): 7, labels(route=""): 6}


def test_a_failure_of_the_app_is_counted_and_says_nothing(client: TestClient, metrics: Metrics) -> None:
    answer = client.get("/v1/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert values(metrics, "fogtune_requests_total") == {labels(route="/v1/broken", task="", status="500"): 1}


def test_the_exposition_is_what_prometheus_reads(client: TestClient, metrics: Metrics) -> None:
    metrics.predicted("vqa", 8, 3)
    metrics.predicted("vqa", 8, 2)
    metrics.predicted("topic", 9, 1)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert answer.content.splitlines()[0].startswith(b"# HELP fogtune_")
    assert values(metrics, "fogtune_predictions_total") == {
        labels(task="vqa", version="8"): 5,
        labels(task="topic", version="9"): 1,
    }
    # It counts itself after it has answered.
    assert values(metrics, "fogtune_requests_total") == {labels(route="/metrics", task="", status="200"): 1}


def test_what_is_served_is_told_as_far_as_anything_is(metrics: Metrics) -> None:
    metrics.serving(None, None, 0)
    assert values(metrics, "fogtune_version") == {}
    metrics.serving(7, None, 1)
    assert values(metrics, "fogtune_version") == {labels(state="stable"): 7}
    assert values(metrics, "fogtune_versions_refused") == {labels(): 1}
    metrics.serving(7, 8, 0)
    assert values(metrics, "fogtune_version") == {labels(state="stable"): 7, labels(state="canary"): 8}
    metrics.serving(8, None, 0)
    assert values(metrics, "fogtune_version") == {labels(state="stable"): 8}
    assert values(metrics, "fogtune_versions_refused") == {labels(): 0}


def test_two_gateways_in_a_process_do_not_mix(metrics: Metrics) -> None:
    other = Metrics(list)
    metrics.serving(7, None, 3)
    assert values(other, "fogtune_versions_refused") == {labels(): 0}
    assert values(other, "fogtune_version") == {}
