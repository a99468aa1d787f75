"""Rounds in which participants fail, or updates are lost: what is left is as if each of them had failed by itself.

Of `tiny`'s devices fog-0 has watch-0, reader-0 and coach-0, fog-1 watch-1 and reader-1. A cell's devices stand within
10 m of each other, some 100 m from their node, without fading; coach-0 is the head of its cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from fogtune.platform.config import Config
from fogtune.platform.federation.device_state import NOTHING
from fogtune.platform.federation.local_runner import LocalRunner, RoundResult
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.federation.state import OWN

MakeConfig = Callable[..., Config]
Same = Callable[[Snapshot, Snapshot], bool]

NETWORK = (
    "network.placement.radius_m=150",
    "network.placement.spread_m=5",
    'network.channel={"kind": "log-distance", "shadowing_db": 0}',
    'network.radio={"fading": "none", "least_snr_db": -20}',
)
APART = ("federation.quorum=0", "execution.fused_devices=1")
"""Who trains together with whom makes a difference to the last bit."""
HEADS = (*NETWORK, 'network.d2d={"heads": true}')


def diverging(config: Config, *devices: str, number: int = 1) -> tuple[RoundResult, Snapshot]:
    """A round in which these devices start from what is no number."""
    runner = LocalRunner(config)
    for before in range(1, number):
        runner.round(before)
    start = runner.snapshot()
    shared = {name: torch.full_like(t, torch.nan) for name, t in runner.setup.initial["adapter/fusion"].items()}
    well = {device: start.devices.get(device, NOTHING) for device in devices}
    spoilt = {d: state._replace(kept={**state.kept, "adapter/fusion": shared}) for d, state in well.items()}
    runner.restore(replace(start, devices={**start.devices, **spoilt}))
    try:
        return runner.round(number), runner.snapshot()
    finally:
        runner.close()


def test_a_head_that_fails_takes_its_clusters_updates_with_it(tiny: MakeConfig, same: Same) -> None:
    result, after = diverging(tiny(*HEADS, "federation.quorum=0.4"), "coach-0")
    assert result.record.updates_lost == 3
    assert result.record.failures == {"head": 2, "not finite": 1}
    assert result.lost is not None
    assert "watch-0, reader-0: its head coach-0 failed" in result.lost
    assert "coach-0: update rejected" in result.lost
    assert {row.source for row in result.rows if row.kind == "uplink"} == {"watch-1", "reader-1"}
    assert after.coordinator.held.keys() == {"watch-1", "reader-1"}
    # As if each of them had failed by itself.
    each, expected = diverging(tiny(*NETWORK, "federation.quorum=0.4"), "watch-0", "reader-0", "coach-0")
    assert same(after, expected)
    assert result.record.loss == each.record.loss


def test_a_member_that_fails_is_lost_alone(tiny: MakeConfig) -> None:
    result, after = diverging(tiny(*HEADS, "federation.quorum=0.4"), "reader-0")
    assert result.record.updates_lost == 1
    assert {row.source for row in result.rows if row.kind == "uplink"} == {"coach-0", "watch-1", "reader-1"}
    assert after.coordinator.held.keys() == {"watch-0", "coach-0", "watch-1", "reader-1"}


def test_what_a_head_lost_is_still_on_its_members(tiny: MakeConfig) -> None:
    every_other = ("federation.cadence.device=2", "federation.cadence.fog=2", "federation.quorum=0.4")
    result, after = diverging(tiny(*HEADS, *every_other), "coach-0", number=2)
    assert "watch-0, reader-0: its head coach-0 failed" in (result.lost or "")
    for device, held in after.coordinator.held.items():
        assert {m for m, stamp in held.items() if stamp == OWN} <= set(after.devices[device].kept)


def test_updates_lost_on_their_way_leave_no_trace(tiny: MakeConfig, same: Same) -> None:
    runner = LocalRunner(tiny(*NETWORK, "network.radio.loss=0.6", "network.radio.attempts=1", *APART))
    result, after = runner.round(1), runner.snapshot()
    runner.close()
    lost = {d["about"] for d in result.record.decisions if d["what"] == "is lost"}
    assert 0 < len(lost) < 5
    assert {"watch-0", "watch-1", "reader-0", "reader-1", "coach-0"} - after.devices.keys() == lost
    # As if each of them had failed by itself.
    each, expected = diverging(tiny(*NETWORK, *APART), *lost)
    assert same(after, expected)
    assert result.record.loss == each.record.loss
