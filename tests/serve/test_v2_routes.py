"""Version 2 over HTTP: the Open Inference Protocol, as NVIDIA's public client speaks it, and byte by byte.

The run is made by hand, the service is the real one; only what the model would say is computed from the samples.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient
from tritonclient.http import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
)
from tritonclient.utils import InferenceServerException

from fogtune.serve import problems, v2
from fogtune.serve.catalogue import Catalogue
from fogtune.serve.registry import Registry
from fogtune.serve.service import PredictRows, Service
from fogtune.serve.settings import Settings

MakeRun = Callable[[Path, int], Path]


@pytest.fixture(scope="module")
def run(made_up: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up(tmp_path_factory.mktemp("runs"), 3)


def app_of(run: Path, answers: PredictRows) -> FastAPI:
    catalogue = Catalogue(Registry(run))
    catalogue.refresh()
    app = FastAPI()
    problems.install(app)
    app.include_router(v2.routes(Service(catalogue, Settings(run=str(run), max_inputs=8), answers)))
    return app


@pytest.fixture(scope="module")
def client(run: Path, answers: PredictRows) -> TestClient:
    return TestClient(app_of(run, answers), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def triton(
    run: Path, answers: PredictRows, listening: Callable[..., AbstractContextManager[str]]
) -> Iterator[InferenceServerClient]:
    """The public client, connected to a server on a free port of this machine."""
    with listening(app_of(run, answers)) as url, InferenceServerClient(url.removeprefix("http://")) as connected:
        yield connected


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(buffer, "PNG")
    return buffer.getvalue()


def given(name: str, datatype: str, values: Any, binary: bool = True) -> InferInput:
    array = np.array(values, {"BYTES": object, "FP32": np.float32, "FP64": np.float64, "UINT8": np.uint8}[datatype])
    declared = InferInput(name, list(array.shape), datatype)
    return declared.set_data_from_numpy(array, binary_data=binary)


def test_triton_client_asks_how_the_server_is(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("topic")
    assert triton.is_model_ready("topic", "1")
    assert not triton.is_model_ready("topic", "3")  # it was tampered with
    assert not triton.is_model_ready("weather")
    metadata = triton.get_server_metadata()
    assert metadata["name"] == "fogtune"
    assert "binary_tensor_data" in metadata["extensions"]


def test_triton_client_asks_for_metadata(triton: InferenceServerClient) -> None:
    assert triton.get_model_metadata("tags") == {
        "name": "tags",
        "versions": ["1", "2"],
        "platform": "pytorch_safetensors",
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1, 1]},
            {"name": "image", "datatype": "BYTES", "shape": [-1, 1]},
        ],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "label", "datatype": "BYTES", "shape": [-1, 1]},
        ],
    }
    load = triton.get_model_metadata("load", "1")
    assert load["inputs"] == [{"name": "imu", "datatype": "FP32", "shape": [-1, -1, 6]}]
    assert load["outputs"] == [{"name": "value", "datatype": "FP32", "shape": [-1, 1]}]
    config = triton.get_model_config("load")
    assert (config["name"], config["max_batch_size"]) == ("load", 8)
    assert config["input"] == [{"name": "imu", "data_type": "TYPE_FP32", "dims": [-1, 6]}]
    assert config["output"] == [{"name": "value", "data_type": "TYPE_FP32", "dims": [1]}]


def test_triton_client_lists_the_repository(triton: InferenceServerClient) -> None:
    index = triton.get_model_repository_index()
    assert [(found["name"], found["version"]) for found in index] == [
        (task, number) for task in ("topic", "tags", "load") for number in ("1", "2", "3")
    ]
    assert {found["version"]: found["state"] for found in index} == {"1": "READY", "2": "READY", "3": "UNAVAILABLE"}
    assert "sha256" in index[2]["reason"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("nested", [True, False])
def test_triton_client_predicts_texts(
    triton: InferenceServerClient, binary_in: bool, binary_out: bool | None, nested: bool
) -> None:
    texts = [["äb"], ["abcdefgh"]] if nested else ["äb", "abcdefgh"]
    outputs = None
    if binary_out is not None:
        outputs = [InferRequestedOutput(name, binary_data=binary_out) for name in ("label", "scores")]
    result = triton.infer("topic", [given("text", "BYTES", texts, binary_in)], outputs=outputs, request_id="é7")
    labels, scores = result.as_numpy("label"), result.as_numpy("scores")
    assert labels.shape == (2, 1)
    assert [label if isinstance(label, str) else label.decode() for label in labels.ravel()] == ["short", "long"]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [[0.8, 0.2], [0.2, 0.8]], rtol=1e-6)
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("topic", "2", "é7")


def test_triton_client_predicts_images(triton: InferenceServerClient) -> None:
    text = given("text", "BYTES", [["?"], ["!"]])
    files = given("image", "BYTES", [[png("red")], [png("blue")]])
    pixels = given("image", "UINT8", [[[[255, 0, 0]] * 4] * 3, [[[0, 0, 255]] * 4] * 3])
    in_json = given("image", "UINT8", [[[[255, 0, 0]] * 4] * 3, [[[0, 0, 255]] * 4] * 3], binary=False)
    for image in (files, pixels, in_json):
        result = triton.infer("tags", [image, text])
        np.testing.assert_array_equal(result.as_numpy("scores"), [[1, 0.75], [0, 0.75]])
        assert result.as_numpy("label").tolist() == [[b"red,wordy"], [b"wordy"]]
    alone = triton.infer("tags", [text])  # the image is missing
    np.testing.assert_array_equal(alone.as_numpy("scores"), [[0.25, 0.75]] * 2)


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_predicts_series(triton: InferenceServerClient, datatype: str, binary: bool) -> None:
    values = np.arange(24).reshape(2, 2, 6) / 4
    result = triton.infer("load", [given("imu", datatype, values, binary)])
    np.testing.assert_array_equal(result.as_numpy("value"), [[16.5], [52.5]])
    assert result.as_numpy("scores") is None


def test_triton_client_asks_for_the_likeliest_classes(triton: InferenceServerClient) -> None:
    outputs = [InferRequestedOutput("scores", class_count=1)]
    result = triton.infer("topic", [given("text", "BYTES", ["ab"])], outputs=outputs)
    assert result.as_numpy("scores").tolist() == [[b"0.800000:0:short"]]


def test_triton_client_names_version_and_variant(triton: InferenceServerClient) -> None:
    text = [given("text", "BYTES", ["ab"])]
    parameter = triton.infer("topic", text, "1", parameters={"variant": "fog:fog-0"}, priority=1, timeout=10**6)
    query = triton.infer("topic", text, "1", query_params={"variant": "fog:fog-0"})
    for response in (parameter.get_response(), query.get_response()):
        assert (response["model_version"], response["parameters"]) == ("1", {"variant": "fog:fog-0"})
    with pytest.raises(
        InferenceServerException, match="variant is 'global' as a parameter and 'fog:fog-0' in the query"
    ):
        triton.infer("topic", text, parameters={"variant": "global"}, query_params={"variant": "fog:fog-0"})


@pytest.mark.parametrize(
    ("task", "version", "inputs", "outputs", "status", "message"),
    [
        (
            "weather",
            "",
            [("text", "BYTES", ["a"])],
            None,
            "404",
            "'weather' is no task of v2; allowed: topic, tags, load",
        ),
        ("topic", "9", [("text", "BYTES", ["a"])], None, "404", "v9 cannot be served (no such version)"),
        ("topic", "x", [("text", "BYTES", ["a"])], None, "422", "version: Input should be a valid integer"),
        ("topic", "", [("imu", "FP32", [[[1]]])], None, "400", "inputs.0.name: 'imu' given; allowed: text"),
        ("topic", "", [("text", "FP32", [1])], None, "400", "inputs.0: FP32 [1] given; allowed: BYTES [n] or [n, 1]"),
        ("topic", "", [("text", "BYTES", ["a"] * 9)], None, "400", "inputs.0.shape: has 9 samples; allowed: at most 8"),
        (
            "topic",
            "",
            [("text", "BYTES", [b"\xff"])],
            None,
            "422",
            "inputs.text.0 is no UTF-8 at byte 0; allowed: text",
        ),
        ("topic", "", [("text", "BYTES", ["a"])], "value", "400", "outputs.0.name: 'value' given; allowed, once each"),
        ("tags", "", [("image", "BYTES", [b"GIF89a"])], None, "422", "inputs.image.0 is no image file (6 bytes)"),
        ("load", "", [("imu", "FP32", [[[1, 2]]])], None, "422", "inputs.imu.0 has 2 channels; allowed: 6"),
    ],
)
def test_triton_client_is_told_what_is_wrong(
    triton: InferenceServerClient,
    task: str,
    version: str,
    inputs: list[tuple[str, str, Any]],
    outputs: str | None,
    status: str,
    message: str,
) -> None:
    wanted = None if outputs is None else [InferRequestedOutput(outputs)]
    with pytest.raises(InferenceServerException) as refused:
        triton.infer(task, [given(*found) for found in inputs], version, outputs=wanted)
    assert refused.value.status() == status
    assert refused.value.message().startswith(message)


def test_triton_client_is_told_what_is_not_offered(triton: InferenceServerClient) -> None:
    text = given("text", "BYTES", ["a"])
    with pytest.raises(InferenceServerException, match="Content-Encoding is gzip; allowed: identity") as refused:
        triton.infer("topic", [text], request_compression_algorithm="gzip")
    assert refused.value.status() == "415"
    with pytest.raises(InferenceServerException, match=r"POST /v2/repository/models/topic/load: Not Found"):
        triton.load_model("topic")
    with pytest.raises(InferenceServerException, match=r"inputs.0.data: is missing"):
        triton.infer("topic", [InferInput("text", [1], "BYTES").set_shared_memory("region", 5)])


def test_the_bytes_of_a_binary_answer(client: TestClient) -> None:
    header = json.dumps(
        {
            "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 9}}],
            "outputs": [{"name": "scores"}, {"name": "label", "parameters": {"binary_data": True}}],
        }
    ).encode()
    response = client.post(
        "/v2/models/topic/infer",
        content=header + struct.pack("<I", 5) + b"abcde",
        headers={"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"},
    )
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    assert json.loads(response.content[:length])["outputs"] == [
        {"name": "scores", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 0.5]},
        {"name": "label", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 9}},
    ]
    assert response.content[length:] == b"\x05\x00\x00\x00short"


def test_an_answer_in_json(client: TestClient) -> None:
    body = {"inputs": [{"name": "imu", "shape": [1, 1, 6], "datatype": "INT32", "data": [1, 2, 3, 4, 5, 6]}]}
    response = client.post("/v2/models/load/versions/1/infer", json=body)
    assert response.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in response.headers
    assert response.json() == {
        "model_name": "load",
        "model_version": "1",
        "parameters": {"variant": "global"},
        "outputs": [{"name": "value", "datatype": "FP32", "shape": [1, 1], "data": [21.0]}],
    }


@pytest.mark.parametrize("length", ["", "-1", "1e3", "9" * 30, "3"])
def test_header_lengths_that_are_none(client: TestClient, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    response = client.post("/v2/models/topic/infer", content=b"{}", headers=headers)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["error"].startswith("Inference-Header-Content-Length is ")


def test_the_repository_index_by_hand(client: TestClient) -> None:
    ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert {found["version"] for found in ready} == {"1", "2"}
    for content in (b"[", b'{"ready": "perhaps"}'):
        assert client.post("/v2/repository/index", content=content).json()["error"].startswith("the body: ")


def test_nothing_published_yet(made_up: MakeRun, answers: PredictRows, tmp_path: Path) -> None:
    client = TestClient(app_of(made_up(tmp_path, 0), answers))
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2").status_code == 200
    for url in ("/v2/health/ready", "/v2/models/topic", "/v2/models/topic/ready", "/v2/models/topic/config"):
        response = client.get(url)
        assert response.status_code == 503
        assert "no version" in response.json()["error"] or "published" in response.json()["error"]
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}
    assert client.post("/v2/models/topic/infer", json=body).status_code == 503


def test_openapi_declares_what_routes_give(client: TestClient) -> None:
    infer = client.get("/openapi.json").json()["paths"]["/v2/models/{task}/versions/{version}/infer"]["post"]
    assert set(infer["responses"]) == {"200", "400", "404", "413", "415", "422", "503", "504"}
    assert set(infer["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}
    assert "$ref" not in json.dumps(infer["requestBody"])
    assert {found["name"]: found["in"] for found in infer["parameters"]} == {
        "task": "path",
        "version": "path",
        "variant": "query",
        "Inference-Header-Content-Length": "header",
    }
