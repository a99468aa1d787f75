"""A federation on a device that is not the processor. No GPU is needed for it: a stand-in has the tensors there in the
processor's memory, and refuses what a GPU refuses, an operation on tensors of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fogtune.platform.config import Config
from fogtune.platform.federation import host, training
from fogtune.platform.federation.local_runner import LocalRunner
from fogtune.platform.learning import optimizer, workbench
from fogtune.platform.learning.evaluation import evaluate
from fogtune.platform.run import RoundRecord

MakeConfig = Callable[..., Config]

ELSEWHERE = torch.device("lazy", 0)  # of all that torch knows, the one whose name needs no driver
aten = torch.ops.aten


class Away(torch.Tensor):
    """A tensor on the other device."""

    near: torch.Tensor
    """What is in it."""

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Away:
        made: Away = torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=ELSEWHERE,
            requires_grad=near.requires_grad,
        )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return computed(operation, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def tolist(self) -> Any:
        return self.near.tolist()


class StandIn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, there is another device; `operations` are those that it has computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: set[str] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = computed(operation, args, kwargs or {})
        if any(isinstance(tensor, Away) for tensor in tree_leaves(result)):
            self.operations.add(str(operation))
        return result


def computed(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    away = any(isinstance(tensor, Away) for tensor in tensors)
    moves = operation in (aten._to_copy.default, aten.copy_.default)
    if away and not moves and any(tensor.dim() and not isinstance(tensor, Away) for tensor in tensors):
        raise RuntimeError(f"{operation}: tensors on two devices")
    args, kwargs = tree_map_only(Away, lambda tensor: tensor.near, (args, kwargs))
    if (to := kwargs.get("device")) is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
        away = torch.device(to) == ELSEWHERE
    result = operation(*args, **kwargs)
    if operation is aten.copy_.default:
        return tensors[0]
    if not away:
        return result
    changed = {id(tensor.near): tensor for tensor in tensors if isinstance(tensor, Away)}  # in place
    return tree_map_only(torch.Tensor, lambda t: changed[id(t)] if id(t) in changed else Away(t), result)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    # What is not for any device, but for GPUs.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    for name in ("_adamw", "_sgd"):
        step = getattr(optimizer, name)
        monkeypatch.setattr(optimizer, name, partial(step, fused=False, foreach=False))
    for user in (host, training):  # the stand-in's tensors cannot be made in inference mode
        monkeypatch.setattr(user, "evaluate", torch.no_grad()(evaluate.__wrapped__))  # type: ignore[attr-defined]
    monkeypatch.setattr(workbench, "choose", lambda gpus: ELSEWHERE if gpus else torch.device("cpu"))
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device=...)` makes it here, and moves it
    try:
        yield StandIn()
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


def test_the_stand_in_refuses_what_a_gpu_refuses(stand_in: StandIn) -> None:
    with stand_in:
        here, there = torch.ones(2), torch.ones(2, device=ELSEWHERE)
        assert (there + there).cpu().tolist() == [2, 2]
        with pytest.raises(RuntimeError, match="two devices"):
            here + there


def rounds(config: Config) -> list[RoundRecord]:
    runner = LocalRunner(config)
    return [runner.round(number).record for number in range(1, config.rounds + 1)]


PERSONAL = 'federation.modules=[{"match": "head/*", "scope": "device"}]'
KINDS = {
    "fused": ("rounds=2", "local.logit_adjustment=1", "federation.rule={kind: fedprox, mu: 0.1}", PERSONAL),
    "one by one": ("rounds=1", "execution.fused_devices=1"),
    "scaffold": ("rounds=1", "local.optimizer=sgd", "local.clip_norm=null", "federation.rule.kind=scaffold"),
    "not at all": ("rounds=1", "local.optimizer=none"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_federation_elsewhere(tiny: MakeConfig, images: tuple[str, ...], stand_in: StandIn, kind: str) -> None:
    """Its rounds are those on the processor, but for rounding."""
    changes = (*images, "topology.tiers=[]", *KINDS[kind]) if kind == "one by one" else KINDS[kind]
    here = rounds(tiny(*changes))
    with stand_in:
        there = rounds(tiny(*changes, "execution.gpus_per_actor=1"))
    assert {"aten.addmm.default", "aten.bmm.default"} & stand_in.operations
    assert_alike(there, here)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_federation_on_a_gpu(tiny: MakeConfig, images: tuple[str, ...], kind: str) -> None:
    """What the stand-in cannot show: kernels of its own, that rounds repeat, transfers beside what is computed."""
    changes = (*images, *KINDS[kind], "execution.gpus_per_actor=1")
    there = rounds(tiny(*changes))
    assert_alike(there, rounds(tiny(*changes, "execution.gpus_per_actor=0")))
    assert [replace(one, wall_s=0.0) for one in rounds(tiny(*changes))] == [replace(one, wall_s=0.0) for one in there]


def assert_alike(there: Sequence[RoundRecord], here: Sequence[RoundRecord]) -> None:
    """The same rounds, but for rounding."""
    for ours, theirs in zip(there, here, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
        assert (ours.participants, ours.updates_lost, ours.bytes) == (theirs.participants, 0, theirs.bytes)
        assert ours.tasks.keys() == theirs.tasks.keys()
        for task, metrics in theirs.tasks.items():
            assert ours.tasks[task] == pytest.approx(metrics, abs=0.1)  # one of 12 samples, or less
