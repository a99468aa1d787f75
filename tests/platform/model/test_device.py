"""Which device a process computes on."""

from __future__ import annotations

import pytest
import torch

from fogtune.platform.errors import InputError
from fogtune.platform.model.device import choose


def test_without_a_share_of_a_gpu_it_is_the_processor() -> None:
    assert choose(0.0) == torch.device("cpu")


def test_where_torch_sees_no_gpu_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(InputError, match=r"^execution.gpus_per_actor: 0.5 given, .* processors alone, sees no GPU"):
        choose(0.5)


def test_on_a_gpu_results_repeat_and_are_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # as it is by default, and is again afterwards
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        assert choose(0.25) == torch.device("cuda")
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.use_deterministic_algorithms(False)
