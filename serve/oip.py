"""The Open Inference Protocol's inference request and response: JSON and binary tensors <-> samples and answers.

Sources: kserve/open-inference-protocol, specification/protocol/inference_rest.md; triton-inference-server/server,
docs/protocol/extension_binary_data.md and extension_classification.md. No HTTP here: bytes in, bytes out.

    body = JSON | JSON of `header_length` bytes, then the binary tensors in the order of `inputs` (serve/tensors.py)

    task reads  tensor                                    task gives      tensor
    text        BYTES [n] or [n, 1], UTF-8                classification  scores FP32 [n, O], label BYTES [n, 1]
    image       BYTES [n] or [n, 1], files (in JSON       multilabel      the same, labels joined by ","
                base64), or UINT8 [n, H, W, 3], RGB       regression      value FP32 [n, 1]
    series      any number [n, T, C], or [n, C] for one
                step each, or [n, T] where C is 1

Legend: n samples, O outputs, T steps, C channels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fogtune.platform.data.table import Raw
from fogtune.platform.wording import listed, quoted

from .decoding import Decoder
from .labels import chosen
from .problems import Problem
from .registry import Input, TaskInfo
from .service import Answer
from .settings import Settings
from .tensors import InputTensor, Tensor, bad, in_binary, read


class RequestedOutput(BaseModel):
    """An output tensor that is wanted; parameters: `binary_data`, `classification`."""

    model_config = ConfigDict(strict=True)

    name: str
    parameters: dict[str, Any] = {}


class InferHeader(BaseModel):
    """An inference request's JSON; parameters: `variant`, `binary_data_output`."""

    model_config = ConfigDict(strict=True)

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[InputTensor] = Field(min_length=1, max_length=64)
    outputs: list[RequestedOutput] | None = Field(default=None, max_length=64)


Described = tuple[str, str, list[int]]
"""Name, datatype and shape of a tensor; -1: any size."""


@dataclass(frozen=True)
class InferRequest:
    """A well-formed request, whatever the task."""

    header: InferHeader
    inputs: tuple[Tensor, ...]

    @property
    def variant(self) -> str | None:
        """The variant it asks for, if any. Raises Problem(400) for anything but text."""
        variant = self.header.parameters.get("variant")
        if not isinstance(variant, str | None):
            raise bad("parameters.variant", f"is {quoted(variant)}; allowed: text")
        return variant


@dataclass(frozen=True)
class Output:
    """An output as wanted: in binary or JSON; `classes` > 0: the so many likeliest as `score:index:label`."""

    name: str
    binary: bool
    classes: int


def parse(body: bytes, header_length: int | None) -> InferRequest:
    """Read a request.

    Args:
        body: all of it.
        header_length: bytes of JSON at its start (`Inference-Header-Content-Length`); None: it is all JSON.

    Raises:
        Problem: 400, for whatever is malformed.
    """
    if header_length is not None and not 0 <= header_length <= len(body):
        raise Problem(400, f"Inference-Header-Content-Length is {header_length}; the body has {len(body)} bytes")
    split = len(body) if header_length is None else header_length
    try:
        header = InferHeader.model_validate_json(body[:split])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise Problem(400, f"{field or 'the request'}: {first['msg']}", field or None) from None
    inputs: list[Tensor] = []
    start = split
    for number, declared in enumerate(header.inputs):
        field = f"inputs.{number}"
        if any(declared.name == before.name for before in inputs):
            raise bad(f"{field}.name", f"{quoted(declared.name)} is given twice")
        size = declared.binary_size(len(body) - start, field)
        content = None if size is None else body[start : start + size]
        start += size or 0
        inputs.append(read(declared, content, field))
    if start != len(body):
        raise Problem(400, f"{len(body) - start} bytes follow the last input; allowed: none")
    return InferRequest(header, tuple(inputs))


def samples(request: InferRequest, task: TaskInfo, settings: Settings) -> list[dict[str, Raw]]:
    """The samples of a request; inputs of the task that it leaves out are missing in all of them.

    Raises:
        Problem: 400 for tensors that are not the task's, or of another shape or datatype than it reads; else as a
            Decoder (serve/decoding.py).
    """
    rows = request.inputs[0].shape[0]
    if rows > settings.max_inputs:
        raise bad("inputs.0.shape", f"has {rows} samples; allowed: at most {settings.max_inputs}")
    declared = {found.name: found for found in task.inputs}
    for number, tensor in enumerate(request.inputs):
        if tensor.name not in declared:
            raise bad(f"inputs.{number}.name", f"{quoted(tensor.name)} given; allowed: {listed(declared)}")
        if tensor.shape[0] != rows:
            raise bad(f"inputs.{number}.shape", f"has {tensor.shape[0]} samples, but the first input {rows}")
        if not _readable(declared[tensor.name], tensor):
            given = f"{tensor.datatype} {list(tensor.shape)}"
            raise bad(f"inputs.{number}", f"{given} given; allowed: {_READS[declared[tensor.name].kind]}")
    columns = {tensor.name: tensor.values for tensor in request.inputs}
    decoder = Decoder(settings)
    return [
        {
            name: decoder.value(declared[name], columns[name][row], f"inputs.{name}.{row}")
            for name in declared
            if name in columns
        }
        for row in range(rows)
    ]


def wanted(request: InferRequest, task: TaskInfo) -> tuple[Output, ...]:
    """The outputs that a request asks for, all of the task's if it names none. Problem 400 for others."""
    binary = _flag(request.header.parameters, "binary_data_output", False, "parameters")
    known = [name for name, _, _ in outputs_of(task)]
    found: list[Output] = []
    for number, output in enumerate(request.header.outputs or [RequestedOutput(name=name) for name in known]):
        field = f"outputs.{number}"
        if output.name not in known or output.name in [before.name for before in found]:
            raise bad(f"{field}.name", f"{quoted(output.name)} given; allowed, once each: {listed(known)}")
        classes = output.parameters.get("classification", 0)
        if type(classes) is not int or classes < 0 or (classes and output.name != "scores"):
            raise bad(f"{field}.parameters.classification", f"{quoted(classes)} given; allowed: a count, of scores")
        found.append(Output(output.name, _flag(output.parameters, "binary_data", binary, field), classes))
    return tuple(found)


def encode(answer: Answer, outputs: Sequence[Output], identifier: str | None) -> tuple[bytes, int | None]:
    """The response's body, and how much of it is JSON; None: all."""
    described, binary = [], []
    for output in outputs:
        datatype, shape, values = _tensor(answer, output)
        tensor: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": shape}
        if output.binary:
            binary.append(in_binary(values))
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = values if isinstance(values, list) else values.ravel().tolist()
        described.append(tensor)
    response = {
        "model_name": answer.task.name,
        "model_version": str(answer.version),
        **({} if identifier is None else {"id": identifier}),
        "parameters": {"variant": answer.variant},
        "outputs": described,
    }
    header = json.dumps(response, allow_nan=False, separators=(",", ":")).encode()
    return b"".join([header, *binary]), len(header) if binary else None


def inputs_of(task: TaskInfo) -> list[Described]:
    """What a task reads."""
    return [
        (found.name, "FP32", [-1, -1, found.channels or -1])
        if found.kind == "series"
        else (found.name, "BYTES", [-1, 1])
        for found in task.inputs
    ]


def outputs_of(task: TaskInfo) -> list[Described]:
    """What a task gives."""
    if task.head == "regression":
        return [("value", "FP32", [-1, 1])]
    return [("scores", "FP32", [-1, len(task.labels)]), ("label", "BYTES", [-1, 1])]


_READS = {
    "text": "BYTES [n] or [n, 1]",
    "image": "BYTES [n] or [n, 1], or UINT8 [n, H, W, 3]",
    "series": "FP32 (or another kind of numbers) [n, T, C] or [n, C]",
}


def _readable(declared: Input, tensor: Tensor) -> bool:
    if declared.kind == "series":
        return tensor.datatype not in ("BYTES", "BOOL") and len(tensor.shape) in (2, 3)
    if declared.kind == "image" and tensor.datatype == "UINT8":
        return len(tensor.shape) == 4 and tensor.shape[3] == 3
    return tensor.datatype == "BYTES" and tensor.shape[1:] in ((), (1,))


def _tensor(answer: Answer, output: Output) -> tuple[str, list[int], list[str] | NDArray[np.float32]]:
    """Datatype, shape and values of an output."""
    scores = answer.scores
    if output.name == "label":
        return "BYTES", [len(scores), 1], [",".join(labels) for labels in chosen(answer)]
    if not output.classes:
        return "FP32", list(scores.shape), scores
    best = np.argsort(-scores, axis=1, kind="stable")[:, : output.classes]
    names = answer.task.labels
    texts = [f"{row[i]:f}:{i}:{names[i]}" for row, order in zip(scores, best, strict=True) for i in order]
    return "BYTES", list(best.shape), texts


def _flag(parameters: dict[str, Any], name: str, default: bool, field: str) -> bool:
    flag = parameters.get(name, default)
    if not isinstance(flag, bool):
        raise bad(f"{field}.{name}", f"is {quoted(flag)}; allowed: true, false")
    return flag
