"""Devices that train together: each becomes what it becomes alone, but for rounding, whatever the others do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from fogtune.platform.aggregation import Tensors, control_name
from fogtune.platform.config import Config
from fogtune.platform.learning.local import Trained, train
from fogtune.platform.learning.pupil import Member
from fogtune.platform.learning.workbench import Workbench
from fogtune.platform.modules import is_statistics

MakeConfig = Callable[..., Config]

EVERYBODY = ("watch-0", "watch-1", "reader-0", "reader-1", "coach-0")
SGD = ("local.optimizer=sgd", "local.clip_norm=null", "local.learning_rate=0.05")


def members(bench: Workbench, devices: Sequence[str], seed: int = 0) -> list[Member]:
    """Each starts from somewhere else, some way from where everything is zero, and holds other experts."""
    result = []
    for i, device in enumerate(devices):
        generator = torch.Generator().manual_seed(seed + i)
        held = tuple(k for k in range(bench.model.num_experts) if k % 3 != i % 3 or bench.model.num_experts < 3)
        idle = {f"expert/{k}" for k in range(bench.model.num_experts) if k not in held}
        start = {
            module: {
                name: tensor
                if is_statistics(module)
                else tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
                for name, tensor in bench.model.tensors(module).items()
            }
            for module in bench.ownership.modules_of[device]
            if module not in idle
        }
        result.append(Member(device, start, held))
    return result


def difference(ours: Tensors, theirs: Tensors, start: Tensors) -> float:
    """Distance as a part of the way from the start. Over all entries: where there is next to no gradient, AdamW takes a
    whole step in the direction of a rounding error."""
    assert ours.keys() == theirs.keys()
    away, way = (
        sum(float((theirs[name] - other[name]).double().square().sum()) for name in start) for other in (ours, start)
    )
    return float((away / max(way, 1e-12)) ** 0.5)


def check(bench: Workbench, some: Sequence[Member]) -> list[Trained]:
    """Together is as alone; what came of it together."""
    together, _ = train(bench, some, 1)
    for member, ours in zip(some, together, strict=True):
        ((alone,), _) = train(bench, [member], 1)
        assert ours.samples == alone.samples
        assert ours.modules.keys() == alone.modules.keys()
        for module in ours.modules:
            assert difference(ours.modules[module], alone.modules[module], member.start[module]) < 1e-3, module
        for task, (loss, samples) in alone.losses.items():
            assert ours.losses[task] == pytest.approx((loss, samples), rel=1e-4)
        assert ours.controls.keys() == alone.controls.keys()
    return together


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("model.experts=null",),
        ("local.batch_size=3", "local.epochs=0.7"),  # batches of several sizes
        (*SGD, "federation.rule={kind: fedprox, mu: 5}"),
        ("local.logit_adjustment=1", "local.weight_decay=0.1", "local.schedule=cosine"),
    ],
    ids=["adamw", "no-experts", "ragged", "fedprox", "adjusted"],
)
def test_devices_of_several_kinds(tiny: MakeConfig, changes: tuple[str, ...]) -> None:
    """Series and texts, one task and two, other experts each, more steps and fewer."""
    bench = Workbench(tiny(*changes))
    trained = check(bench, members(bench, EVERYBODY))
    assert {module.partition("/")[0] for one in trained for module in one.modules} >= {
        "encoder", "statistics", "prompt", "adapter", "head",
    }  # fmt: skip


def test_experts_that_nobody_holds(tiny: MakeConfig) -> None:
    bench = Workbench(tiny("model.experts.count=4"))
    some = []
    for member, held in zip(members(bench, ("reader-0", "reader-1")), ((1, 3), (1,)), strict=True):
        start = {m: t for m, t in members(bench, [member.device])[0].start.items() if not m.startswith("expert/")}
        mine = {f"expert/{k}": bench.model.tensors(f"expert/{k}") for k in held}
        some.append(Member(member.device, {**start, **mine}, held))
    check(bench, some)


def test_one_kind_alone(tiny: MakeConfig) -> None:
    bench = Workbench(tiny("devices.0.count=4"))
    check(bench, members(bench, [device for device in bench.tree.devices if device.startswith("watch")]))


def test_images_and_a_device_that_has_none(tiny: MakeConfig, images: tuple[str, ...]) -> None:
    bench = Workbench(tiny(*images, "topology.tiers=[]"))
    check(bench, members(bench, ("camera-0", "reader-0")))


def test_cameras(tiny: MakeConfig, images: tuple[str, ...]) -> None:
    bench = Workbench(tiny(*images, "topology.tiers=[]", "devices.0.count=3"))
    check(bench, members(bench, ("camera-0", "camera-1", "camera-2")))


def test_scaffold(tiny: MakeConfig) -> None:
    bench = Workbench(tiny(*SGD, "federation.rule.kind=scaffold"))
    some = []
    for member in members(bench, EVERYBODY):
        server = {
            m: {**named, **{control_name(n): torch.full_like(t, 0.02) for n, t in named.items()}}
            for m, named in member.start.items()
        }
        own = {m: {n: torch.full_like(t, 0.01) for n, t in named.items()} for m, named in member.start.items()}
        # Of a personal head the server has no variates.
        server |= {m: named for m, named in member.start.items() if m.startswith("head/") or is_statistics(m)}
        some.append(Member(member.device, server, member.experts, own))
    for member, trained in zip(some, check(bench, some), strict=True):
        assert set(trained.controls) == {
            m for m in trained.modules if not m.startswith("head/") and not is_statistics(m)
        }, member.device


def test_nobody_catches_what_another_has(tiny: MakeConfig) -> None:
    bench = Workbench(tiny())
    some = members(bench, EVERYBODY)
    ill = {name: torch.full_like(tensor, torch.nan) for name, tensor in some[1].start["adapter/fusion"].items()}
    spoilt = [*some]
    spoilt[1] = Member(some[1].device, {**some[1].start, "adapter/fusion": ill}, some[1].experts)
    well, _ = train(bench, some, 1)
    found, _ = train(bench, spoilt, 1)
    assert all(bool(tensor.isnan().all()) for tensor in found[1].modules["adapter/fusion"].values())
    for i in (0, 2, 3, 4):
        for module, tensors in well[i].modules.items():
            for name, tensor in tensors.items():
                torch.testing.assert_close(found[i].modules[module][name], tensor, atol=1e-5, rtol=1e-3)


def test_the_same_members_give_the_same_bits(tiny: MakeConfig) -> None:
    bench = Workbench(tiny())
    some = members(bench, EVERYBODY)
    (first, _), _, (again, _) = train(bench, some, 1), train(bench, some[:2], 1), train(bench, some, 1)
    for ours, theirs in zip(first, again, strict=True):
        assert all(torch.equal(t, theirs.modules[m][n]) for m, named in ours.modules.items() for n, t in named.items())


def test_nothing_is_trained_where_that_is_asked_for(tiny: MakeConfig) -> None:
    bench = Workbench(tiny("local.optimizer=none"))
    some = members(bench, EVERYBODY)
    usual, _ = train(
        Workbench(tiny("model.experts=null")), members(Workbench(tiny("model.experts=null")), EVERYBODY), 1
    )
    for member, trained, other in zip(some, train(bench, some, 1)[0], usual, strict=True):
        for module, tensors in trained.modules.items():
            if not is_statistics(module):
                assert all(torch.equal(t, member.start[module][n]) for n, t in tensors.items())
        assert {m: n for m, n in trained.samples.items() if m in other.samples} == other.samples
        assert trained.losses == {}
