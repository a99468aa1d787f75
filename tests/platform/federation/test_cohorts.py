"""Who trains together: a function of the configuration and the plan."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fogtune.platform.config import Config
from fogtune.platform.federation.cohorts import cohorts
from fogtune.platform.federation.messages import DeviceOrder, RoundPlan
from fogtune.platform.topology_build import build_tree

MakeConfig = Callable[..., Config]


def order(device: str, lost: str | None = None) -> DeviceOrder:
    return DeviceOrder(device, (), (), (), (), lost=lost)


@pytest.mark.parametrize(
    ("watches", "size", "sizes"),
    [
        (20, 32, [20]),
        (20, 8, [5, 5, 5, 5]),  # 3 would do; an even number leaves no processor of two alone
        (18, 8, [4, 5, 4, 5]),
        (9, 8, [4, 5]),
        (3, 1, [1, 1, 1]),
        (3, 2, [1, 2]),
    ],
)
def test_cohorts_of_a_group_are_of_about_one_size(tiny: MakeConfig, watches: int, size: int, sizes: list[int]) -> None:
    config = tiny(f"devices.0.count={watches}")
    tree = build_tree(config)
    devices = [device for device in tree.devices if tree[device].group == "watch"]
    found = cohorts(config, tree, RoundPlan(1, tuple(map(order, devices)), False, False), size)
    assert [len(cohort) for cohort in found] == sizes
    assert [one.device for cohort in found for one in cohort] == devices


def test_groups_stay_apart_and_what_is_lost_on_the_way_is_not_trained(tiny: MakeConfig) -> None:
    config = tiny()
    tree = build_tree(config)
    orders = tuple(order(device, "out of reach" if device == "watch-1" else None) for device in tree.devices)
    found = cohorts(config, tree, RoundPlan(1, orders, False, False), 8)
    together = {tuple(sorted(one.device for one in cohort)) for cohort in found}
    assert together == {("watch-0",), ("reader-0", "reader-1"), ("coach-0",)}


def test_devices_that_return_what_they_got_are_together_by_their_node(tiny: MakeConfig) -> None:
    config = tiny("devices.0.count=7", "local.optimizer=none")
    tree = build_tree(config)
    watches = [device for device in tree.devices if tree[device].group == "watch"]
    parents = {tree[device].parent for device in watches}
    found = cohorts(config, tree, RoundPlan(1, tuple(map(order, watches)), False, False), 8)
    assert len(found) == len(parents) > 1
    assert all(len({tree[one.device].parent for one in cohort}) == 1 for cohort in found)
    assert sorted(one.device for cohort in found for one in cohort) == sorted(watches)


def test_devices_of_two_machines_do_not_train_together(tiny: MakeConfig) -> None:
    config = tiny("execution.placement=labels", "execution.machines={hall: [reader-0, watch-*]}")
    tree = build_tree(config)
    found = cohorts(config, tree, RoundPlan(1, tuple(map(order, tree.devices)), False, False), 8)
    together = {tuple(one.device for one in cohort) for cohort in found}
    assert together == {("watch-0", "watch-1"), ("reader-0",), ("reader-1",), ("coach-0",)}
