"""The library of fp32 products, for all of torch in this process.

torch's own, MKL, runs at less than half the speed of oneDNN on AMD's newest processors and at nine tenths on Zen 4
(equal on AMD's without AVX-512), and both are in the same wheel. torch gives an fp32 product to oneDNN only where it
is told that bf16 inside is precise enough. A processor without matrix units for that (AMX) computes it in true fp32 all
the same, which one product shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from fogtune.platform.errors import InputError

Matmul = Literal["auto", "default", "onednn"]


def choose(matmul: Matmul, large: bool = True) -> None:
    """Let this process have a library of products.

    `auto` is oneDNN for large products on AMD processors with AVX-512 where it is exact: a property of the machine, not
    a measurement of its speed, so that all its processes choose alike.

    Args:
        matmul: the library.
        large: whether products are so large that the time of a call does not matter, which oneDNN's takes more of.

    Raises:
        InputError: oneDNN is asked for, but is not there, or not exact here.
    """
    if matmul == "onednn" and not onednn_is_exact():
        problem = "onednn does not compute fp32 products in fp32 on this processor; allowed: auto, default"
        raise InputError("execution.matmul", problem)
    fast = matmul == "onednn" or (matmul == "auto" and large and _is_newer_amd() and onednn_is_exact())
    _set("bf16" if fast else "none")


def chosen() -> Literal["default", "onednn"]:
    """What this process has."""
    return "onednn" if torch.backends.mkldnn.matmul.fp32_precision == "bf16" else "default"  # type: ignore[attr-defined]


@contextmanager
def using(library: Literal["default", "onednn"]) -> Iterator[None]:
    """Within the block, this process has another library."""
    before = chosen()
    choose(library)
    try:
        yield
    finally:
        choose(before)


@cache
def onednn_is_exact() -> bool:
    """Whether oneDNN's product is as near to the true one as fp32 allows, where torch lets it be less exact."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=generator) for _ in range(2))
    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    try:
        _set("bf16")
        error = (a @ b).double() - a.double() @ b.double()
    finally:
        _set(before)
    return float(error.norm()) < 1e-5 * 64  # a norm of 64 in all: bf16 would be off by 3e-3 of it


@cache
def computes_bf16() -> bool:
    """Whether products in bf16 are oneDNN's here, whatever is chosen for those in fp32."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _set(precision: str) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = precision  # type: ignore[attr-defined]


def _is_newer_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "AuthenticAMD" not in cpuinfo.read_text():
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX512"
