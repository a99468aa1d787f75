"""Serialised sizes: how many bytes a module takes on a link, as safetensors, without serialising it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

_CODES = {torch.float32: "F32", torch.int64: "I64"}


def message_bytes(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> int:
    """Length of `safetensors.torch.save(tensors)` with the tensors as `dtype`: float32 versions, or int64 sums."""
    offset = 0
    header: dict[str, object] = {}
    # safetensors orders by descending alignment, then by name; within one dtype that is by name.
    for name in sorted(tensors):
        size = tensors[name].numel() * dtype.itemsize
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + offset
