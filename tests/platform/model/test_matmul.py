"""The library of products: who has it, that it is exact, and that a wish that cannot be met is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fogtune.platform.errors import InputError
from fogtune.platform.model import matmul


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = matmul.chosen()
    yield
    matmul.choose(before)


def error_of(product: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    exact = a.double() @ b.double()
    return float((product.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("library", ["default", "onednn", "auto"])
def test_every_library_is_exact_to_fp32(library: matmul.Matmul) -> None:
    if library == "onednn" and not matmul.onednn_is_exact():
        pytest.skip("oneDNN is not exact here")
    matmul.choose(library)
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(200, 300, generator=generator), torch.randn(300, 100, generator=generator)
    assert error_of(a @ b, a, b) < 2e-6
    assert error_of(torch.nn.functional.linear(a, b.t()), a, b) < 2e-6
    batch = torch.randn(3, 200, 300, generator=generator)
    assert error_of(batch @ b, batch, b) < 2e-6


@pytest.mark.parametrize(
    ("vendor", "capability", "exact", "expected"),
    [
        ("AuthenticAMD", "AVX512", True, "onednn"),
        ("AuthenticAMD", "AVX512", False, "default"),
        ("AuthenticAMD", "AVX2", True, "default"),
        ("GenuineIntel", "AVX512", True, "default"),
    ],
)
def test_auto_is_what_is_faster_and_exact(
    vendor: str, capability: str, exact: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: f"vendor_id : {vendor}")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda: exact)
    matmul.choose("auto")
    assert matmul.chosen() == expected


def test_a_library_that_is_not_exact_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul.choose("default")
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda: False)
    with pytest.raises(InputError, match=r"^execution\.matmul: onednn does not compute .*; allowed: auto, default$"):
        matmul.choose("onednn")
    assert matmul.chosen() == "default"


def test_whether_it_is_exact_is_found_out_without_a_trace() -> None:
    matmul.choose("default")
    matmul.onednn_is_exact.cache_clear()
    matmul.onednn_is_exact()
    assert matmul.chosen() == "default"
