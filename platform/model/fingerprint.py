"""Fingerprints of frozen networks: what they compute of equal inputs is equal, bit for bit, if these are equal.

The weights are hashed as they lie in memory, not the files that they came from, so no file that changes in place and no
hub name that moves on is missed. Beside them are the source of this package, the libraries and the processor: kernels
of another version or for other instructions add up in another order.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")
_SETTINGS = ("ATEN_", "DNNL_", "MKL_", "ONEDNN_")
"""How the names of environment variables begin that tell torch's libraries which kernels to take."""


def fingerprint(weights: Mapping[str, Tensor], described: Any) -> str:
    """Of a network, 32 hexadecimal digits.

    Args:
        weights: all that it computes with, by name.
        described: what else its results depend on, as JSON has it.
    """
    summary = {
        "weights": {name: _hashed(tensor) for name, tensor in weights.items()},
        "described": described,
        "computed by": _machine(),
        "conditions": conditions(),
        "device": sorted({_device(tensor) for tensor in weights.values()}),
    }
    return hashlib.blake2b(json.dumps(summary, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def described_config(config: Any) -> dict[str, Any] | None:
    """What a Hugging Face configuration says that a network's results depend on; None of none."""
    if config is None:
        return None
    values: dict[str, Any] = config.to_dict()
    values.pop("_name_or_path", None)
    return {**values, "attention": config._attn_implementation}


def _hashed(tensor: Tensor) -> tuple[str, list[int], str]:
    """dtype, shape, hash."""
    values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    # xxHash, for it takes no longer than reading: the largest backbones have tens of gigabytes.
    return str(tensor.dtype), list(tensor.shape), xxhash.xxh3_128_hexdigest(values.numpy().data)


@cache
def _machine() -> dict[str, Any]:
    """Source, libraries and processor, as far as they may decide over a bit."""
    source = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        source.update(file.read_bytes())
    return {
        "source": source.hexdigest(),
        "libraries": [version(name) for name in _LIBRARIES],
        "built": torch.__config__.show(),
        "processor": _processor(),
        "settings": {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS)},
    }


def _device(tensor: Tensor) -> str:
    return torch.cuda.get_device_name(tensor.device) if tensor.device.type == "cuda" else tensor.device.type


def conditions() -> tuple[Hashable, ...]:
    """What may change while a process runs, and kernels with it: the number of threads, and which of torch's libraries
    compute products and convolutions, and how precisely."""
    backends: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn, torch.backends.cuda)
    kinds = (getattr(backend, kind, None) for backend in backends for kind in ("matmul", "conv"))
    return (torch.get_num_threads(), *(kind.fp32_precision for kind in kinds if kind is not None))


def _processor() -> list[str]:
    """Kind and instructions of the first one, as Linux tells them on x86 and on Arm."""
    kinds = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    return [torch.backends.cpu.get_cpu_capability(), *(line for line in lines if line.startswith(kinds))]
