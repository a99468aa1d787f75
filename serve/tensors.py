"""Tensors of the Open Inference Protocol: their values in JSON and in binary, checked against shape and datatype.

Every length is checked against what is there before anything of that length is made. In binary, elements lie in
row-major order, little-endian; an element of BYTES is a uint32 length and so many bytes. Shared memory is not offered.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fogtune.platform.wording import quoted

from .problems import Problem

_DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_REAL: set[type] = {int, float}


class InputTensor(BaseModel):
    """An input tensor; `data` unless the parameter `binary_data_size` says that it follows the JSON."""

    model_config = ConfigDict(strict=True)

    name: str
    shape: list[Annotated[int, Field(ge=1, lt=2**63)]] = Field(min_length=1, max_length=4)
    datatype: Literal[
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "BYTES",
    ]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None

    def binary_size(self, left: int, field: str) -> int | None:
        """Bytes of its values after the JSON; None: they are in `data`. Problem(400) unless so many are `left`."""
        size = self.parameters.get("binary_data_size")
        if size is None:
            return None
        if self.data is not None:
            raise bad(f"{field}.data", "is given, and binary_data_size too; allowed: one of them")
        if type(size) is not int or not 0 <= size <= left:
            raise bad(
                f"{field}.parameters.binary_data_size", f"{quoted(size)} given; {left} bytes of the body are left"
            )
        return size


@dataclass(frozen=True)
class Tensor:
    """A tensor's values: text (of JSON) or bytes (binary) in row-major order, or an array of its shape."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[str | bytes] | NDArray[Any]


def read(declared: InputTensor, content: bytes | None, field: str) -> Tensor:
    """The tensor, from its binary content or, if that is None, from JSON. Problem(400) if they do not fit its shape."""
    values = _from_json(declared, field) if content is None else _from_binary(declared, content, field)
    return Tensor(declared.name, declared.datatype, tuple(declared.shape), values)


def in_binary(values: list[str] | NDArray[np.float32]) -> bytes:
    """Values of BYTES or FP32 as they follow the JSON."""
    if not isinstance(values, list):
        return values.astype("<f4").tobytes()
    return b"".join(struct.pack("<I", len(element)) + element for element in map(str.encode, values))


def bad(field: str, problem: str) -> Problem:
    """A request that is malformed at `field`."""
    return Problem(400, f"{field}: {problem}", field)


def _from_json(declared: InputTensor, field: str) -> list[str | bytes] | NDArray[Any]:
    """`data`, flat or nested as its shape."""
    shape, datatype = declared.shape, declared.datatype
    if declared.data is None:
        raise bad(f"{field}.data", "is missing; allowed: data, or the parameter binary_data_size and binary data")
    level: list[Any] = [declared.data]
    for length in shape if declared.data and type(declared.data[0]) is list else [math.prod(shape)]:
        if not all(type(part) is list and len(part) == length for part in level):
            raise bad(f"{field}.data", f"does not have the shape {shape}")
        level = list(chain.from_iterable(level))
    kinds: dict[str, set[type]] = {"BYTES": {str}, "BOOL": {bool}, "FP16": _REAL, "FP32": _REAL, "FP64": _REAL}
    if not kinds.get(datatype, {int}).issuperset(map(type, level)):
        raise bad(f"{field}.data", f"holds what is no {datatype}")
    if datatype == "BYTES":
        return level
    try:  # reals of JSON are 64 bits wide, whatever the datatype says
        return np.array(level, np.float64 if datatype.startswith("FP") else _DTYPES[datatype]).reshape(shape)
    except OverflowError as error:
        raise bad(f"{field}.data", f"holds what is no {datatype} ({error})") from None


def _from_binary(declared: InputTensor, content: bytes, field: str) -> list[str | bytes] | NDArray[Any]:
    shape, datatype = declared.shape, declared.datatype
    count = math.prod(shape)
    if datatype != "BYTES":
        dtype = np.dtype(_DTYPES[datatype])
        if len(content) != count * dtype.itemsize:
            needed = f"{datatype} {shape} is {count * dtype.itemsize}"
            raise bad(f"{field}.parameters.binary_data_size", f"{len(content)} given; {needed} bytes")
        return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))  # a copy: writable
    elements: list[str | bytes] = []
    start = 0
    while len(elements) < count and start + 4 <= len(content):
        end = start + 4 + int(struct.unpack_from("<I", content, start)[0])
        elements.append(content[start + 4 : end])
        start = end
    if start != len(content) or len(elements) != count:
        raise bad(field, f"{len(content)} bytes are not the {count} BYTES elements of shape {shape}")
    return elements
