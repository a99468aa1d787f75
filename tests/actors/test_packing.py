"""Packing: every device in one host, hosts of equal size, names that read like the federation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fogtune.actors.packing import Packed, actor_name, pack
from fogtune.platform.config import Config
from fogtune.platform.topology import Tree
from fogtune.platform.topology_build import build_tree


@pytest.fixture
def tree(tiny: Callable[..., Config]) -> Tree:
    """fog-0 has watch-0, reader-0, coach-0; fog-1 has watch-1, reader-1."""
    return build_tree(tiny())


def test_two_hosts_split_where_the_sizes_are_equal(tree: Tree) -> None:
    assert pack(tree, 2) == (
        Packed("devices/0/0", ("watch-0", "reader-0")),
        Packed("devices/0+1/0", ("coach-0", "watch-1", "reader-1")),
    )


def test_one_host_serves_all(tree: Tree) -> None:
    assert pack(tree, 1) == (Packed("devices/0+1/0", ("watch-0", "reader-0", "coach-0", "watch-1", "reader-1")),)


def test_a_host_a_device_bears_the_name_of_its_device(tree: Tree) -> None:
    hosts = pack(tree, 99)
    assert [host.name for host in hosts] == [f"device/{host.devices[0]}" for host in hosts]
    assert sorted(host.devices[0] for host in hosts) == sorted(tree.devices)


def test_hosts_of_one_node_get_the_same_mix(tiny: Callable[..., Config]) -> None:
    star = build_tree(tiny("topology.tiers=[]", "devices.0.count=4", "devices.1.count=4", "devices.2.count=4"))
    groups = [[device.partition("-")[0] for device in host.devices] for host in pack(star, 2)]
    assert groups == [["watch", "watch", "reader", "reader", "coach", "coach"]] * 2


@pytest.mark.parametrize("hosts", range(1, 8))
def test_no_device_is_lost_or_in_two_hosts(tree: Tree, hosts: int) -> None:
    packed = pack(tree, hosts)
    assert sorted(device for host in packed for device in host.devices) == sorted(tree.devices)
    assert len({host.name for host in packed}) == len(packed) == min(hosts, 5)
    sizes = [len(host.devices) for host in packed]
    assert max(sizes) - min(sizes) <= 1


def test_names_do_not_repeat_the_tier(tree: Tree) -> None:
    assert [actor_name(tree, node) for node in ("fog-0", "watch-0")] == ["fog/0", "device/watch-0"]


def test_a_host_serves_one_machine(tiny: Callable[..., Config]) -> None:
    tree = build_tree(tiny("execution.placement=labels", "execution.machines={hall: [watch-*, coach-0]}"))
    assert pack(tree, 2, "hall") == (
        Packed("device/watch-0", ("watch-0",), "hall"),
        Packed("devices/hall/0", ("coach-0", "watch-1"), "hall"),
    )
    assert pack(tree, 2, "reader-1") == (Packed("device/reader-1", ("reader-1",), "reader-1"),)
