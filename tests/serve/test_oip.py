"""Tensors become samples and answers become tensors, byte by byte as the protocol says; nothing malformed surprises."""

from __future__ import annotations

import base64
import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fogtune.serve import oip
from fogtune.serve.problems import Problem
from fogtune.serve.registry import Input, TaskInfo
from fogtune.serve.service import Answer
from fogtune.serve.settings import Settings

SETTINGS = Settings(run="run", max_inputs=4, max_pixels=100)
INPUTS = (Input("text", "text", None), Input("image", "image", None), Input("imu", "series", 2))
TASK = TaskInfo("vqa", "classification", INPUTS, ("yes", "no", "blue"), {})
TAGS = TaskInfo("tags", "multilabel", INPUTS, ("yes", "no", "blue"), {})
AGE = TaskInfo("age", "regression", INPUTS, (), {})


def tensor(name: str, datatype: str, shape: list[int], data: Any = None, size: int | None = None) -> dict[str, Any]:
    described: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if data is not None:
        described["data"] = data
    if size is not None:
        described["parameters"] = {"binary_data_size": size}
    return described


def parsed(*inputs: dict[str, Any], binary: bytes | None = None, **others: Any) -> oip.InferRequest:
    header = json.dumps({"inputs": inputs, **others}).encode()
    return oip.parse(header + (binary or b""), None if binary is None else len(header))


def samples(*inputs: dict[str, Any], binary: bytes | None = None) -> list[dict[str, Any]]:
    return list(oip.samples(parsed(*inputs, binary=binary), TASK, SETTINGS))


def refusal(*inputs: Any, status: int = 400, binary: bytes | None = None) -> str:
    with pytest.raises(Problem) as refused:
        samples(*inputs, binary=binary)
    assert refused.value.status == status
    assert "\n" not in refused.value.detail
    return refused.value.detail


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


PIXELS = np.arange(36, dtype=np.uint8).reshape(2, 3, 2, 3)  # two images of 3 x 2


@pytest.mark.parametrize(
    ("shape", "data"), [([2], ["a", "é"]), ([2, 1], ["a", "é"]), ([2, 1], [["a"], ["é"]])], ids=str
)
def test_text_in_json(shape: list[int], data: Any) -> None:
    assert samples(tensor("text", "BYTES", shape, data)) == [{"text": "a"}, {"text": "é"}]


def test_text_in_binary() -> None:
    # From the specification: a little-endian uint32, then so many bytes.
    binary = b"\x01\x00\x00\x00a" + b"\x02\x00\x00\x00\xc3\xa9" + b"\x00\x00\x00\x00"
    assert samples(tensor("text", "BYTES", [3], size=15), binary=binary) == [{"text": "a"}, {"text": "é"}, {"text": ""}]


def test_images() -> None:
    files = [png(image) for image in PIXELS]
    elements = b"".join(struct.pack("<I", len(file)) + file for file in files)
    ways = [
        samples(tensor("image", "BYTES", [2, 1], [base64.b64encode(file).decode() for file in files])),
        samples(tensor("image", "BYTES", [2], size=len(elements)), binary=elements),
        samples(tensor("image", "UINT8", [2, 3, 2, 3], PIXELS.tolist())),
        samples(tensor("image", "UINT8", [2, 3, 2, 3], PIXELS.ravel().tolist())),
        samples(tensor("image", "UINT8", [2, 3, 2, 3], size=36), binary=bytes(range(36))),
    ]
    for found in ways:
        np.testing.assert_array_equal([sample["image"] for sample in found], PIXELS)
        assert all(sample["image"].dtype == np.uint8 and sample["image"].flags.writeable for sample in found)


@pytest.mark.parametrize(
    ("datatype", "code"),
    [
        ("FP32", "f"),
        ("FP64", "d"),
        ("FP16", "e"),
        ("INT8", "b"),
        ("INT16", "h"),
        ("INT32", "i"),
        ("INT64", "q"),
        ("UINT8", "B"),
        ("UINT16", "H"),
        ("UINT32", "I"),
        ("UINT64", "Q"),
    ],
)
def test_series(datatype: str, code: str) -> None:
    values = [1, 2, 3, 4, 5, 126]  # one sample, three steps, two channels
    binary = struct.pack(f"<6{code}", *values)
    expected = np.array([[1, 2], [3, 4], [5, 126]], np.float32)
    for found in (
        samples(tensor("imu", datatype, [1, 3, 2], values)),
        samples(tensor("imu", datatype, [1, 3, 2], [[[1, 2], [3, 4], [5, 126]]])),
        samples(tensor("imu", datatype, [1, 3, 2], size=len(binary)), binary=binary),
    ):
        assert found[0]["imu"].dtype == np.float32
        np.testing.assert_array_equal(found[0]["imu"], expected)


def test_binary_tensors_follow_each_other_in_the_order_of_the_inputs() -> None:
    binary = struct.pack("<4f", 1, 2, 3, 4) + struct.pack("<I2sI1s", 2, b"hi", 1, b"!")
    found = samples(
        tensor("imu", "FP32", [2, 1, 2], size=16),
        tensor("image", "UINT8", [2, 3, 2, 3], PIXELS.tolist()),
        tensor("text", "BYTES", [2], size=11),
        binary=binary,
    )
    assert [list(sample) for sample in found] == [["text", "image", "imu"]] * 2  # in the task's order
    assert [sample["text"] for sample in found] == ["hi", "!"]
    assert [sample["imu"].tolist() for sample in found] == [[[1, 2]], [[3, 4]]]


TEXT = tensor("text", "BYTES", [1], ["a"])


@pytest.mark.parametrize(
    ("inputs", "detail"),
    [
        ([], "inputs: List should have at least 1 item after validation, not 0"),
        ([7], "inputs.0: Input should be an object"),
        ([tensor("text", "STRING", [1], ["a"])], "inputs.0.datatype: Input should be 'BOOL'"),
        ([tensor("text", "BYTES", [0], [])], "inputs.0.shape.0: Input should be greater than or equal to 1"),
        ([tensor("text", "BYTES", [-1], [])], "inputs.0.shape.0: Input should be greater than or equal to 1"),
        ([tensor("text", "BYTES", [True], ["a"])], "inputs.0.shape.0: Input should be a valid integer"),
        ([tensor("text", "BYTES", [2**70], ["a"])], "inputs.0.shape.0: Input should be less than 9223372036854775808"),
        ([tensor("text", "BYTES", [1] * 5, ["a"])], "inputs.0.shape: List should have at most 4 items"),
        ([tensor("text", "BYTES", [], "a")], "inputs.0.shape: List should have at least 1 item"),
        ([tensor("text", "BYTES", [2**62] * 4, ["a"])], "inputs.0.data: does not have the shape [46116"),
        ([tensor("text", "BYTES", [2], ["a"])], "inputs.0.data: does not have the shape [2]"),
        ([tensor("text", "BYTES", [2, 1], [["a", "b"], []])], "inputs.0.data: does not have the shape [2, 1]"),
        ([tensor("text", "BYTES", [2, 1], [["a"], "b"])], "inputs.0.data: does not have the shape [2, 1]"),
        ([tensor("text", "BYTES", [1], [["a"]])], "inputs.0.data: holds what is no BYTES"),
        ([tensor("text", "BYTES", [1], [1])], "inputs.0.data: holds what is no BYTES"),
        ([tensor("text", "BYTES", [1])], "inputs.0.data: is missing"),
        ([TEXT, TEXT], "inputs.1.name: 'text' is given twice"),
        ([tensor("audio", "BYTES", [1], ["a"])], "inputs.0.name: 'audio' given; allowed: text, image, imu"),
        ([tensor("text", "BYTES", [5], ["a"] * 5)], "inputs.0.shape: has 5 samples; allowed: at most 4"),
        ([TEXT, tensor("image", "BYTES", [2], ["", ""])], "inputs.1.shape: has 2 samples, but the first input 1"),
        ([tensor("text", "BYTES", [1, 1, 1], ["a"])], "inputs.0: BYTES [1, 1, 1] given; allowed: BYTES [n] or [n, 1]"),
        ([tensor("text", "BYTES", [1, 2], ["a", "b"])], "inputs.0: BYTES [1, 2] given; allowed: BYTES [n] or [n, 1]"),
        ([tensor("text", "FP32", [1], [1])], "inputs.0: FP32 [1] given; allowed: BYTES [n] or [n, 1]"),
        (
            [tensor("image", "UINT8", [1, 1, 1, 4], [1] * 4)],
            "inputs.0: UINT8 [1, 1, 1, 4] given; allowed: BYTES [n] or",
        ),
        ([tensor("image", "INT8", [1, 1, 1, 3], [1] * 3)], "inputs.0: INT8 [1, 1, 1, 3] given; allowed: BYTES [n] or"),
        (
            [tensor("image", "UINT8", [1, 1, 1, 3], [256] * 3)],
            "inputs.0.data: holds what is no UINT8 (Python integer 256",
        ),
        ([tensor("image", "UINT8", [1, 1, 1, 3], [1.0] * 3)], "inputs.0.data: holds what is no UINT8"),
        ([tensor("imu", "BOOL", [1, 1, 2], [True, False])], "inputs.0: BOOL [1, 1, 2] given; allowed: FP32"),
        ([tensor("imu", "FP32", [1], [1])], "inputs.0: FP32 [1] given; allowed: FP32"),
        ([tensor("imu", "FP32", [1, 1, 1, 2], [1, 2])], "inputs.0: FP32 [1, 1, 1, 2] given; allowed: FP32"),
        ([tensor("imu", "FP32", [1, 1, 2], [1, True])], "inputs.0.data: holds what is no FP32"),
        ([tensor("imu", "FP32", [1, 1, 2], [1, 10**400])], "inputs.0.data: holds what is no FP32 (int too large"),
        ([TEXT | {"parameters": {"binary_data_size": 0}}], "inputs.0.data: is given, and binary_data_size too"),
    ],
)
def test_malformed_inputs(inputs: list[Any], detail: str) -> None:
    assert refusal(*inputs).startswith(detail)


@pytest.mark.parametrize(
    ("declared", "binary", "detail"),
    [
        (
            tensor("text", "BYTES", [1], size=6),
            b"\x01\0\0\0a",
            "binary_data_size: 6 given; 5 bytes of the body are left",
        ),
        (tensor("text", "BYTES", [1], size=-1), b"", "binary_data_size: -1 given; 0 bytes of the body are left"),
        (tensor("text", "BYTES", [1], size=5), b"\x02\0\0\0a", "5 bytes are not the 1 BYTES elements of shape [1]"),
        (tensor("text", "BYTES", [1], size=5), b"\xff\xff\xff\xffa", "5 bytes are not the 1 BYTES elements"),
        (tensor("text", "BYTES", [2], size=5), b"\x01\0\0\0a", "5 bytes are not the 2 BYTES elements"),
        (tensor("text", "BYTES", [1], size=8), bytes(8), "8 bytes are not the 1 BYTES elements"),
        (tensor("text", "BYTES", [1], size=3), bytes(3), "3 bytes are not the 1 BYTES elements"),
        (tensor("text", "BYTES", [1], size=4), bytes(9), "5 bytes follow the last input; allowed: none"),
        (tensor("imu", "FP32", [1, 1, 2], size=4), bytes(4), "binary_data_size: 4 given; FP32 [1, 1, 2] is 8 bytes"),
        (
            tensor("imu", "FP64", [2**62] * 3, size=8),
            bytes(8),
            "is 784637716923335095479473677900958302012794430558004314112 b",
        ),
    ],
)
def test_malformed_binary(declared: dict[str, Any], binary: bytes, detail: str) -> None:
    assert detail in refusal(declared, binary=binary)


def test_values_are_named() -> None:
    assert refusal(tensor("imu", "FP32", [1, 1, 3], [1, 2, 3]), status=422) == "inputs.imu.0 has 3 channels; allowed: 2"
    nan = struct.pack("<4f", 1, 2, 3, float("nan"))
    detail = "inputs.imu.1 holds nan at [0, 1]; allowed: finite 32-bit numbers"
    assert refusal(tensor("imu", "FP32", [2, 1, 2], size=16), binary=nan, status=422) == detail
    assert refusal(tensor("text", "BYTES", [1], size=5), binary=b"\x01\0\0\0\xff", status=422).startswith(
        "inputs.text.0 is no UTF-8 at byte 0"
    )
    large = tensor("image", "UINT8", [1, 11, 10, 3], size=330)
    assert refusal(large, binary=bytes(330), status=413).startswith("inputs.image.0 is an image of 10 x 11 pixels")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"nul", b"\xff\xfe", b'{"inputs": ' + b"[" * 100_000, b'{"id": 7}']
)
def test_what_is_no_request(body: bytes) -> None:
    for header_length in (None, 0, len(body), len(body) + 1):
        with pytest.raises(Problem) as refused:
            oip.parse(body, header_length)
        assert refused.value.status == 400


def test_parameters() -> None:
    assert parsed(TEXT, id="42", parameters={"variant": "fog:fog-0", "priority": 1}).variant == "fog:fog-0"
    assert parsed(TEXT).variant is None
    with pytest.raises(Problem, match=r"parameters.variant: is 7; allowed: text"):
        parsed(TEXT, parameters={"variant": 7}).variant  # noqa: B018


SCORES = np.array([[0.5, 0.25, 0.75], [0.125, 0.5, 0.5]], np.float32)


def encoded(task: TaskInfo, scores: Any, identifier: str | None = None, **request: Any) -> tuple[dict[str, Any], bytes]:
    outputs = oip.wanted(parsed(TEXT, **request), task)
    body, length = oip.encode(Answer(task, 3, "global", np.asarray(scores, np.float32)), outputs, identifier)
    return json.loads(body[:length]), b"" if length is None else body[length:]


def test_answers_in_json() -> None:
    response, binary = encoded(TASK, SCORES, "42")
    assert binary == b""
    assert response == {
        "model_name": "vqa",
        "model_version": "3",
        "id": "42",
        "parameters": {"variant": "global"},
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [2, 3], "data": [0.5, 0.25, 0.75, 0.125, 0.5, 0.5]},
            {"name": "label", "datatype": "BYTES", "shape": [2, 1], "data": ["blue", "no"]},
        ],
    }
    tags, _ = encoded(TAGS, [[0.75, 0.25, 1], [0.5, 0.25, 0]])
    assert "id" not in tags
    assert tags["outputs"][1]["data"] == ["yes,blue", ""]
    age, _ = encoded(AGE, [[12.5], [-3]])
    assert age["outputs"] == [{"name": "value", "datatype": "FP32", "shape": [2, 1], "data": [12.5, -3]}]


def test_answers_in_binary() -> None:
    response, binary = encoded(TASK, SCORES, parameters={"binary_data_output": True})
    assert response["outputs"] == [
        {"name": "scores", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}},
        {"name": "label", "datatype": "BYTES", "shape": [2, 1], "parameters": {"binary_data_size": 14}},
    ]
    assert binary == struct.pack("<6f", 0.5, 0.25, 0.75, 0.125, 0.5, 0.5) + b"\x04\0\0\0blue\x02\0\0\0no"


def test_each_output_says_how_it_comes() -> None:
    wanted = [{"name": "label", "parameters": {"binary_data": False}}, {"name": "scores"}]
    response, binary = encoded(TASK, SCORES, outputs=wanted, parameters={"binary_data_output": True})
    assert [output["name"] for output in response["outputs"]] == ["label", "scores"]
    assert response["outputs"][0]["data"] == ["blue", "no"]
    assert len(binary) == 24
    only, _ = encoded(TASK, SCORES, outputs=[{"name": "label"}])
    assert [output["name"] for output in only["outputs"]] == ["label"]
    everything, _ = encoded(TASK, SCORES, outputs=[])
    assert len(everything["outputs"]) == 2


@pytest.mark.parametrize(("count", "columns"), [(2, 2), (10**30, 3)])
def test_the_likeliest_classes(count: int, columns: int) -> None:
    response, _ = encoded(TASK, SCORES, outputs=[{"name": "scores", "parameters": {"classification": count}}])
    (output,) = response["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, columns])
    expected = [
        ["0.750000:2:blue", "0.500000:0:yes", "0.250000:1:no"],
        ["0.500000:1:no", "0.500000:2:blue", "0.125000:0:yes"],
    ]
    assert output["data"] == [text for row in expected for text in row[:columns]]


@pytest.mark.parametrize(
    ("request_", "detail"),
    [
        ({"outputs": [{"name": "value"}]}, "outputs.0.name: 'value' given; allowed, once each: scores, label"),
        ({"outputs": [{"name": "label"}] * 2}, "outputs.1.name: 'label' given; allowed, once each: scores, label"),
        (
            {"outputs": [{"name": "label", "parameters": {"binary_data": 1}}]},
            "outputs.0.binary_data: is 1; allowed: true",
        ),
        (
            {"parameters": {"binary_data_output": "yes"}},
            "parameters.binary_data_output: is 'yes'; allowed: true, false",
        ),
        (
            {"outputs": [{"name": "label", "parameters": {"classification": 1}}]},
            "outputs.0.parameters.classification: 1",
        ),
        (
            {"outputs": [{"name": "scores", "parameters": {"classification": -1}}]},
            "outputs.0.parameters.classification: -1",
        ),
    ],
)
def test_outputs_that_there_are_none_of(request_: dict[str, Any], detail: str) -> None:
    with pytest.raises(Problem) as refused:
        encoded(TASK, SCORES, **request_)
    assert refused.value.detail.startswith(detail)
    assert refused.value.status == 400


def test_answers_that_are_no_numbers_are_the_servers_fault() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encoded(AGE, [[float("nan")]])


def attempt(body: bytes, header_length: int | None) -> None:
    """Only a Problem of the client's may come of it."""
    try:
        oip.samples(oip.parse(body, header_length), TASK, SETTINGS)
    except Problem as problem:
        refused = problem
    else:
        return
    assert refused.status in (400, 413, 422)
    assert "\n" not in refused.detail


@given(body=st.binary(max_size=200), header_length=st.none() | st.integers(-5, 210))
def test_random_bytes(body: bytes, header_length: int | None) -> None:
    attempt(body, header_length)


sizes = st.integers(-2, 5) | st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
datas = st.recursive(scalars, lambda values: st.lists(values, max_size=4), max_leaves=12)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["text", "image", "imu", "audio"]),
        "datatype": st.sampled_from(["BYTES", "FP32", "FP16", "UINT8", "INT64", "BOOL", "BF16"]),
        "shape": st.lists(sizes, max_size=5) | st.just([1]) | st.just([1, 1, 2]),
    },
    optional={
        "data": datas | st.lists(st.text(max_size=3), min_size=1, max_size=2) | st.just([1, 2.5]),
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": sizes | scalars}),
    },
)


@given(inputs=st.lists(tensors, max_size=3), binary=st.binary(max_size=40), cut=st.integers(-3, 3))
def test_made_up_requests(inputs: list[dict[str, Any]], binary: bytes, cut: int) -> None:
    header = json.dumps({"inputs": inputs}).encode()
    attempt(header + binary, len(header) + cut)
    attempt(header, None)


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_damaged_requests(position: int, byte: int) -> None:
    file = png(PIXELS[0])
    binary = struct.pack("<2f", 1, 2) + struct.pack("<I", len(file)) + file
    inputs = [tensor("imu", "FP32", [1, 1, 2], size=8), tensor("image", "BYTES", [1], size=len(binary) - 8), TEXT]
    header = json.dumps({"inputs": inputs}).encode()
    body = bytearray(header + binary)
    body[position % len(body)] = byte
    attempt(bytes(body), len(header))
