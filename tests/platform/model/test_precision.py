"""bf16 in the fusion blocks: near to fp32, in passes and in what is trained, which stays fp32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fogtune.platform.config import Config
from fogtune.platform.learning import workbench
from fogtune.platform.learning.local import train
from fogtune.platform.learning.pupil import Member
from fogtune.platform.learning.workbench import Workbench
from fogtune.platform.modules import is_statistics

MakeConfig = Callable[..., Config]


def test_what_is_trained_is_fp32_and_near(tiny: MakeConfig) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        bench = Workbench(tiny(f"execution.precision={precision}", "local.optimizer=sgd", "local.epochs=2"))
        members = [
            Member(device, {m: bench.model.tensors(m) for m in bench.ownership.modules_of[device]}, (0, 1, 2, 3))
            for device in ("reader-0", "coach-0")
        ]
        found.append((members[1].start, train(bench, members, 1)[0][1].modules))
    (start, exact), (_, rounded) = found
    moved = 0.0
    for module in (module for module in exact if not is_statistics(module) and module in rounded):
        for name, tensor in rounded[module].items():
            assert tensor.dtype == torch.float32
            change = exact[module][name] - start[module][name]
            away = float((tensor - exact[module][name]).norm())
            assert away <= 0.1 * float(change.norm()) + 1e-6, (module, name)
            moved += away
    assert moved > 0  # it was another precision


def test_prefixes_and_what_leaves_the_blocks_are_fp32(tiny: MakeConfig) -> None:
    exact, rounded = (Workbench(tiny(f"execution.precision={p}")).model for p in ("fp32", "bf16"))
    prefix = rounded.prefix("text", "what colour is the square")
    assert torch.equal(prefix, exact.prefix("text", "what colour is the square"))
    tokens, mask = prefix.unsqueeze(0), torch.ones(1, len(prefix), dtype=torch.int64)
    with torch.no_grad():
        ours, theirs = (model.backbone.fuse(tokens, mask) for model in (rounded, exact))
    assert ours.dtype == torch.float32
    assert 1e-5 < float((ours - theirs).norm() / theirs.norm()) < 0.02


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_processor_without_bf16_is_told_of(
    has_bf16: bool, tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workbench, "computes_bf16", lambda: has_bf16)
    Workbench(tiny("execution.precision=fp32"))
    assert not caplog.messages
    Workbench(tiny("execution.precision=bf16"))
    said = "execution.precision: this processor has no bf16; fp32 would be faster"
    assert caplog.messages == ([] if has_bf16 else [said])
