"""Version 1 over HTTP: what is asked, what is answered, and how a request is refused.

The run is made by hand, the service is the real one; only what the model would say is computed from the samples.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from fogtune.serve import problems, v1
from fogtune.serve.catalogue import Catalogue
from fogtune.serve.registry import Registry
from fogtune.serve.service import PredictRows, Service
from fogtune.serve.settings import Settings

MakeRun = Callable[[Path, int], Path]
HOME = "/v1/tasks/topic:predict"


@pytest.fixture
def run(made_up: MakeRun, tmp_path: Path) -> Path:
    return made_up(tmp_path, 3)


def client_of(run: Path, answers: PredictRows, **limits: Any) -> TestClient:
    catalogue = Catalogue(Registry(run))
    catalogue.refresh()
    app = FastAPI()
    problems.install(app)
    app.include_router(v1.routes(Service(catalogue, Settings(run=str(run), **limits), answers)))
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def client(run: Path, answers: PredictRows) -> TestClient:
    return client_of(run, answers)


def red_png(width: int = 4) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 3), (255, 0, 0)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def refused(response: Any, status: int) -> str:
    """The detail of a problem that is whole."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["error"] == body["detail"]
    assert "\n" not in body["detail"]
    return str(body["detail"])


def test_tasks(client: TestClient) -> None:
    tasks = {task.pop("name"): task for task in client.get("/v1/tasks").json()["tasks"]}
    assert list(tasks) == ["topic", "tags", "load"]
    assert tasks["tags"] == {
        "head": "multilabel",
        "inputs": [
            {"name": "text", "kind": "text", "channels": None},
            {"name": "image", "kind": "image", "channels": None},
        ],
        "labels": ["red", "wordy"],
        "metrics": {"accuracy": 0.5},
        "version": 2,
        "versions": [1, 2],
    }
    assert tasks["load"]["inputs"] == [{"name": "imu", "kind": "series", "channels": 6}]
    assert tasks["load"]["labels"] == []


def test_classification(client: TestClient) -> None:
    response = client.post(HOME, json={"inputs": [{"text": "ab"}, {"text": "abcdefgh"}]})
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (body["task"], body["version"], body["variant"]) == ("topic", 2, "global")
    assert [prediction["label"] for prediction in body["predictions"]] == ["short", "long"]
    assert body["predictions"][0]["scores"] == pytest.approx({"short": 0.8, "long": 0.2})
    assert list(body["predictions"][0]) == ["label", "scores"]


def test_multilabel_with_images_and_without(client: TestClient) -> None:
    inputs = [
        {"text": "?", "image": red_png()},
        {"image": red_png()},
        {"text": "?", "image": None},
        {"image": None, "text": ""},
    ]
    body = client.post("/v1/tasks/tags:predict", json={"inputs": inputs}).json()
    assert body["predictions"] == [
        {"labels": ["red", "wordy"], "scores": {"red": 1, "wordy": 0.75}},
        {"labels": ["red"], "scores": {"red": 1, "wordy": 0.25}},
        {"labels": ["wordy"], "scores": {"red": 0.25, "wordy": 0.75}},
        {"labels": ["wordy"], "scores": {"red": 0.25, "wordy": 0.75}},
    ]


def test_regression(client: TestClient) -> None:
    body = client.post("/v1/tasks/load:predict", json={"inputs": [{"imu": [[1, 2, 3, 4, 5, 6], [0.5] * 6]}]}).json()
    assert body["predictions"] == [{"value": 24}]


def test_versions_and_variants_are_chosen_by_the_query(client: TestClient) -> None:
    response = client.post(f"{HOME}?variant=device:phone-0&version=1", json={"inputs": [{"text": "ab"}]})
    assert (response.json()["version"], response.json()["variant"]) == (1, "device:phone-0")


@pytest.mark.parametrize(
    ("url", "body", "status", "detail"),
    [
        ("/v1/tasks/weather:predict", {"inputs": [{"text": "a"}]}, 404, "'weather' is no task of v2"),
        (f"{HOME}?version=9", {"inputs": [{"text": "a"}]}, 404, "v9 cannot be served"),
        (f"{HOME}?version=3", {"inputs": [{"text": "a"}]}, 404, "v3 cannot be served"),
        (f"{HOME}?version=-1", {"inputs": [{"text": "a"}]}, 422, "version: Input should be greater than or equal to 0"),
        (f"{HOME}?variant=fog:fog-9", {"inputs": [{"text": "a"}]}, 404, "'fog:fog-9' is none"),
        (HOME, {"inputs": []}, 422, "inputs: List should have at least 1 item"),
        (HOME, {"inputs": [{"text": "a"}] * 65}, 422, "inputs has 65 samples; allowed: at most 64"),
        (HOME, {"inputs": [{"text": "a"}, {}]}, 422, "inputs.1 is empty; allowed: at least one of text"),
        (HOME, {"inputs": [{"text": None}]}, 422, "inputs.0 is empty; allowed: at least one of text"),
        (HOME, {"inputs": [{"image": "a"}]}, 422, "inputs.0 names 'image'; allowed of topic: text"),
        (HOME, {"inputs": [{"text": 7}]}, 422, "inputs.0.text is 7; allowed: text"),
        (HOME, {"inputs": [7]}, 422, "inputs.0: Input should be a valid dictionary"),
        (HOME, {"inputs": [{"text": "a" * 20_001}]}, 413, "inputs.0.text has 20001 characters; allowed: at most 20000"),
        (HOME, {"inputs": [{"text": "a"}], "variant": "global"}, 422, "body: 'variant' is unknown; allowed: inputs"),
        (HOME, [], 422, "body: Input should be a valid dictionary"),
        ("/v1/tasks/tags:predict", {"inputs": [{"image": "http://a/b.png"}]}, 422, "inputs.0.image is a URL, and URLs"),
        ("/v1/tasks/load:predict", {"inputs": [{"imu": [[1, 2]]}]}, 422, "inputs.0.imu has 2 channels; allowed: 6"),
        ("/v1/versions:promote", {"version": "newest"}, 422, "version."),
        ("/v1/versions:promote", {"version": 9}, 422, "9 cannot be served; allowed: v1, v2"),
        ("/v1/versions:promote", {"version": 1, "percent": 0}, 422, "percent: Input should be greater than 0"),
    ],
)
def test_refusals(client: TestClient, url: str, body: Any, status: int, detail: str) -> None:
    assert refused(client.post(url, json=body), status).startswith(detail)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"inputs": [{"text": "a\\ud800"}]}', 422),
        (b'{"inputs": [{"a\\ud800": "a"}]}', 422),
        (b'{"inputs": [{"text": "a"}], "a\\ud800": 1}', 422),
        (b'{"inputs": [{"text": "a", "text": NaN}]}', 422),
        (b'{"inputs": [', 422),
        (b'{"inputs": ' + b"[" * 100_000, 400),
        (b'{"inputs": ' + b"9" * 5_000 + b"}", 400),
        (b"\xff", 400),
        (b"", 422),
    ],
)
def test_bodies_that_are_no_json(client: TestClient, content: bytes, status: int) -> None:
    refused(client.post(HOME, content=content, headers={"content-type": "application/json"}), status)


def test_limits_are_those_of_the_settings(run: Path, answers: PredictRows) -> None:
    client = client_of(run, answers, max_inputs=1, max_pixels=12, max_text_chars=3, max_series_values=6)
    assert client.post("/v1/tasks/tags:predict", json={"inputs": [{"image": red_png(4)}]}).status_code == 200
    assert refused(client.post("/v1/tasks/tags:predict", json={"inputs": [{"image": red_png(5)}]}), 413)
    assert refused(client.post(HOME, json={"inputs": [{"text": "abcd"}]}), 413)
    assert refused(client.post(HOME, json={"inputs": [{"text": "a"}] * 2}), 422)
    assert refused(client.post("/v1/tasks/load:predict", json={"inputs": [{"imu": [[0] * 6] * 2}]}), 413)


def test_variants(client: TestClient) -> None:
    url = "/v1/tasks/topic/variants"
    everything = ["global", "fog:fog-0", "fog:fog-1", "device:phone-0", "device:phone-1"]
    found = client.get(url).json()
    assert (sorted(found["variants"]), found["variants"][0], found["total"]) == (sorted(everything), "global", 5)
    assert client.get(f"{url}?contains=phone&limit=1").json() == {"variants": ["device:phone-0"], "total": 2}
    assert refused(client.get("/v1/tasks/weather/variants"), 404).startswith("'weather' is no task")
    assert refused(client.get(f"{url}?limit=0"), 422).startswith("limit: ")


def test_promotion_and_back(client: TestClient) -> None:
    before = client.get("/v1/versions").json()
    assert [(found["version"], found["state"]) for found in before["versions"]] == [
        (1, "ready"),
        (2, "stable"),
        (3, "refused"),
    ]
    assert "sha256" in before["versions"][2]["reason"]
    assert before["versions"][1]["metrics"]["topic"] == {"accuracy": 0.5}
    assert before["rollout"] == {"pinned": None, "canary": None}

    promoted = client.post("/v1/versions:promote", json={"version": 1}).json()
    assert promoted["rollout"] == {"pinned": 1, "canary": None}
    assert promoted == client.get("/v1/versions").json()
    assert client.post(HOME, json={"inputs": [{"text": "a"}]}).json()["version"] == 1

    canary = client.post("/v1/versions:promote", json={"version": 2, "percent": 50}).json()
    assert canary["rollout"] == {"pinned": 1, "canary": {"version": 2, "percent": 50}}
    answered = {client.post(HOME, json={"inputs": [{"text": "a"}]}).json()["version"] for _ in range(4)}
    assert answered == {1, 2}

    assert client.post("/v1/versions:rollback").json()["rollout"] == {"pinned": 1, "canary": None}
    assert "none before v1" in refused(client.post("/v1/versions:rollback"), 409)
    latest = client.post("/v1/versions:promote", json={"version": "latest"}).json()
    assert latest["rollout"] == {"pinned": None, "canary": None}


def test_nothing_published_yet(made_up: MakeRun, answers: PredictRows, tmp_path: Path) -> None:
    client = client_of(made_up(tmp_path, 0), answers)
    assert client.get("/v1/versions").json()["versions"] == []
    for response in (client.get("/v1/tasks"), client.post(HOME, json={"inputs": [{"text": "a"}]})):
        assert "no version" in refused(response, 503)
        assert int(response.headers["retry-after"]) >= 1


def test_openapi_declares_what_routes_give(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    predict = paths["/v1/tasks/{task}:predict"]["post"]
    assert set(predict["responses"]) == {"200", "400", "404", "413", "422", "503", "504"}
    assert predict["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("PredictResponse")
    assert predict["responses"]["422"]["content"]["application/problem+json"]["schema"]["$ref"].endswith(
        "ProblemDetails"
    )
