"""What a round costs: as much as its participants, however many devices there are; and devices that are alike share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fogtune import preset
from fogtune.platform.config import Config
from fogtune.platform.federation.accounting import Accountant
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.evaluating import evaluation_jobs
from fogtune.platform.federation.messages import DeviceReport, RoundPlan, Setup, Workload
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.modules import module_names
from fogtune.platform.run.rows import LedgerRows

POPULATION = 300
NETWORK = "network={placement: {side_m: 30000}, radio: {least_snr_db: -60}}"


def population(*overrides: str) -> Config:
    """300 devices of two kinds under 10 fog nodes, of which 12 take part in a round."""
    devices = (
        f'[{{"name": "watch", "count": {POPULATION // 2}, "modalities": ["imu"], "tasks": ["exercise"]}}, '
        f'{{"name": "reader", "count": {POPULATION // 2}, "modalities": ["text"], "tasks": ["topic"]}}]'
    )
    return preset(
        "smoke",
        "rounds=50",
        f"devices={devices}",
        "topology.tiers.0.count=10",
        "model.experts=null",
        "federation.participation=0.04",
        *overrides,
    )


def coordinate(config: Config) -> Coordinator:
    initial = {module: {"weight": torch.zeros(3)} for module in module_names(config)}
    setup = Setup(initial, dict.fromkeys(config.tasks, 50), dict.fromkeys(config.tasks, ("a", "b")), None)
    coordinator = Coordinator(config, setup)
    if config.network:
        group = {group.name: group for group in config.devices}
        loads = {
            device: tuple(Workload(task, 9, 1e6, 1e5) for task in group[str(coordinator.tree[device].group)].tasks)
            for device in coordinator.tree.devices
        }
        coordinator = Coordinator(config, Setup(initial, setup.held_out, setup.labels, None, loads))
    return coordinator


def run_round(coordinator: Coordinator, number: int) -> tuple[RoundPlan, LedgerRows]:
    """A round in which everybody delivers and the cloud makes new versions of all modules."""
    plan = coordinator.plan(number)
    reports = [DeviceReport(order.device, None, sent=order.upward) for order in plan.orders]
    reports = coordinator.heard(plan, reports)
    coordinator.admit(plan, reports)
    found = coordinator.cooperation(plan, reports)
    coordinator.note_devices(plan, reports)
    adopted = coordinator.descend(number, {"cloud": coordinator.ownership.modules})
    hosts = {"here": coordinator.tree.devices}
    evaluation_jobs(coordinator.config, coordinator.tree, coordinator.ownership, coordinator.setup, hosts, number)
    upward = {node: coordinator.ownership.subtree_modules(node) for node in coordinator.tree.aggregators[:-1]}
    booked = Accountant(coordinator).book(plan, reports, upward, adopted, found)
    coordinator.conclude(plan, booked.ready_s, booked.spent_j, {})
    return plan, booked.rows


class Watched(dict[str, Any]):
    """A mapping that knows which of its keys were asked for; to walk over all of them is an error."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__(found)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("somebody walks over all devices")

    keys = values = items = __iter__  # type: ignore[assignment]


@pytest.mark.parametrize("overrides", [(), (NETWORK,)], ids=["no-network", "network"])
def test_a_round_asks_for_nobody_but_its_participants(overrides: tuple[str, ...]) -> None:
    coordinator = coordinate(population(*overrides))
    run_round(coordinator, 1)  # what is worked out once may look at everybody
    seen: set[str] = set()
    for number in (2, 3):
        nodes = Watched(coordinator.tree.nodes)
        object.__setattr__(coordinator.tree, "nodes", nodes)
        plan, _ = run_round(coordinator, number)
        object.__setattr__(coordinator.tree, "nodes", dict(dict.items(nodes)))
        participants = {order.device for order in plan.orders}
        assert len(participants) == 12
        assert nodes.asked - {*coordinator.tree.aggregators} == participants
        seen |= participants
    assert len(seen) > 12


def test_devices_that_are_alike_share_what_their_orders_say_and_what_they_hold() -> None:
    coordinator = coordinate(population())
    for number in (1, 2, 3):
        plan, _ = run_round(coordinator, number)
        for name in ("modules", "fetched", "upward", "changes"):
            distinct = {id(getattr(order, name)) for order in plan.orders if getattr(order, name)}
            assert len(distinct) <= 2 * number  # a kind of device, and a round in which it took part last
    held = coordinator.state.held
    assert len(held) > 20
    assert len({id(found) for found in held.values()}) <= 2 * 6  # a kind and the rounds in which it took part
    stored = Snapshot(coordinator.state, {}, {}).flatten()[1]["coordinator"]
    assert len(stored["holdings"]) == len({tuple(found.items()) for found in held.values()}) <= 2 * 3
    assert {device: stored["holdings"][number] for device, number in stored["held"].items()} == held


def test_a_copy_of_the_state_is_not_changed_by_later_rounds() -> None:
    coordinator = coordinate(population(NETWORK))
    run_round(coordinator, 1)
    state = coordinator.state
    before, told = state.copy(), repr(state)
    assert before == state
    run_round(coordinator, 2)
    run_round(coordinator, 3)
    assert repr(before) == told
    assert repr(state) != told
