"""Where nodes stand: a star and a hierarchy alike, cells gathered around their nodes, placed trees as they are."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from fogtune import preset
from fogtune.platform.config import Network
from fogtune.platform.config.check import check
from fogtune.platform.errors import InputError
from fogtune.platform.network.channel import build_channel
from fogtune.platform.network.sites import Sites, find_sites
from fogtune.platform.topology import Tree
from fogtune.platform.topology_build import build_tree

FOUR = "topology.tiers.0.count=4"
STAR = "topology.tiers=[]"
DEPTH_4 = 'topology.tiers=[{"name": "region", "count": 2}, {"name": "fog", "count": 4}]'
PLACED = 'topology={"kind": "placed", "tiers": [{"name": "fog", "count": 4}]}'


def place(*overrides: str) -> tuple[Sites, Tree]:
    """Sites and tree of the preset `smoke`, with ten devices."""
    config = preset("smoke", "network={}", "devices.0.count=7", *overrides)
    tree = build_tree(config)
    return find_sites(config, tree, config.network or Network()), tree


def cell(sites: Sites, access: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Positions of a cell's devices relative to its access node, (n, 2)."""
    return np.array([sites.position_m[device] for device in sites.cells[access]]) - sites.position_m[access]


@pytest.mark.parametrize("tiers", [FOUR, DEPTH_4])
def test_a_star_and_a_hierarchy_of_one_seed_stand_alike(tiers: str) -> None:
    star, star_tree = place(STAR)
    hierarchy, tree = place(tiers)
    assert star_tree.devices == tree.devices
    assert [star.position_m[device] for device in tree.devices] == [hierarchy.position_m[d] for d in tree.devices]
    assert [star.position_m[f"ap-{i}"] for i in range(4)] == [hierarchy.position_m[f"fog-{i}"] for i in range(4)]
    assert star.position_m["cloud"] == hierarchy.position_m["cloud"] == (1500, 1500)
    assert [node.replace("ap", "fog") for node in star.access.values()] == list(hierarchy.access.values())


def test_another_seed_places_otherwise() -> None:
    one, other = place(FOUR)[0], place(FOUR, "seed=1")[0]
    assert [node for node in one.position_m if one.position_m[node] == other.position_m[node]] == ["cloud"]
    assert not np.any(cell(one, "fog-0") == cell(other, "fog-0"))


@pytest.mark.parametrize(
    ("topology", "cells"),
    [
        (FOUR, ["fog-0", "fog-1", "fog-2", "fog-3"]),
        (DEPTH_4, ["fog-0", "fog-1", "fog-2", "fog-3"]),
        (STAR, ["ap-0", "ap-1", "ap-2", "ap-3"]),
        (PLACED, None),
    ],
)
def test_cells_hold_each_device_once(topology: str, cells: list[str] | None) -> None:
    sites, tree = place(topology)
    assert sorted(device for devices in sites.cells.values() for device in devices) == sorted(tree.devices)
    assert {device: node for node, devices in sites.cells.items() for device in devices} == sites.access
    for devices in sites.cells.values():
        assert list(devices) == sorted(devices, key=tree.devices.index)
    assert cells is None or list(sites.cells) == cells
    assert set(sites.position_m) == set(tree.nodes) | set(sites.cells)


def test_a_device_is_heard_by_its_parent_or_is_dealt_to_an_access_point() -> None:
    sites, tree = place(FOUR)
    assert sites.access == {device: tree[device].parent for device in tree.devices}
    sites, tree = place(STAR, "network.placement.access_points=3")
    assert list(sites.access.values()) == [f"ap-{i % 3}" for i in range(10)]


def test_devices_stand_around_a_centre_of_their_cell() -> None:
    sites, _ = place(FOUR, "devices.0.count=397")
    for access in sites.cells:
        offsets = cell(sites, access)
        assert len(offsets) == 100
        centre = offsets.mean(axis=0)
        # 100 devices in a disc of 100 m: their mean is off by 5 m a coordinate (100 / 2 / sqrt(100)), 20 m are ample.
        assert np.linalg.norm(centre) <= 400 + 20
        assert np.linalg.norm(offsets - centre, axis=1).max() <= 100 + 20
        assert max(math.dist(one, other) for one, other in combinations(offsets.tolist(), 2)) <= 2 * 100
        # Evenly: half of them within 1 / sqrt(2) of the radius, with a standard error of 5 %.
        near = np.mean(np.linalg.norm(offsets - centre, axis=1) <= 100 * math.sqrt(0.5))
        assert near == pytest.approx(0.5, abs=0.2)


def test_centres_fill_a_disc_around_their_nodes() -> None:
    # One device a cell, on its centre: half within 1 / sqrt(2) of the radius, with a standard error of 3.5 %.
    many = ["network.placement.side_m=1e6", "network.placement.spread_m=1e-6", "topology.tiers.0.count=200"]
    sites, _ = place(*many, "devices.0.count=197")
    offsets = np.concatenate([cell(sites, access) for access in sites.cells])
    distances = np.linalg.norm(offsets, axis=1)
    assert 380 < distances.max() <= 400
    assert np.mean(distances <= 400 * math.sqrt(0.5)) == pytest.approx(0.5, abs=0.12)
    assert np.mean(offsets > 0, axis=0) == pytest.approx([0.5, 0.5], abs=0.12)


def test_nodes_of_a_tier_stay_apart_in_the_square() -> None:
    for seed in range(10):
        sites, tree = place(DEPTH_4, f"seed={seed}", "network.placement.separation_m=1000")
        for tier in ("region", "fog"):
            points = [sites.position_m[node.id] for node in tree if node.tier == tier]
            assert all(math.dist(one, other) >= 1000 for one, other in combinations(points, 2))
            assert all(0 <= coordinate <= 3000 for point in points for coordinate in point)


@pytest.mark.parametrize("nodes", [FOUR, STAR])
def test_what_does_not_fit_is_refused(nodes: str) -> None:
    # 4 points in a square can be at most a side apart.
    with pytest.raises(InputError) as caught:
        place(nodes, "network.placement.side_m=100", "network.placement.separation_m=101")
    assert str(caught.value) == (
        "network.placement.separation_m: 4 nodes do not fit 101 m apart into a square of 100 m "
        "(2 did in 10000 tries); allowed: fewer nodes, less separation_m, more side_m"
    )


def test_a_placed_tree_keeps_its_positions() -> None:
    sites, tree = place(PLACED)
    assert sites.position_m == {node.id: (node.x_m, node.y_m) for node in tree}
    assert sites.position_m["cloud"] == (2500, 2500)
    for device in tree.devices:
        fogs = [node.id for node in tree if node.tier == "fog"]
        assert sites.access[device] == min(fogs, key=lambda fog: sites.distance_m(device, fog))


def test_distances() -> None:
    sites = Sites({"a": (0.0, 1.0), "b": (3.0, 5.0)}, {}, {})
    assert sites.distance_m("a", "b") == sites.distance_m("b", "a") == 5


def test_a_device_may_not_be_called_like_an_access_point() -> None:
    with pytest.raises(InputError, match=r"^devices: 'ap-0' is the name of an access point; allowed: other names"):
        check(preset("smoke", "network={}", "topology.tiers=[]", "devices.1.name=ap"))


def test_a_star_and_a_hierarchy_have_the_same_links() -> None:
    gains = []
    for topology in ("topology.tiers=[]", 'topology.tiers=[{"name": "fog", "count": 4}]'):
        config = preset("smoke", "network={}", topology)
        assert config.network is not None
        sites = find_sites(config, build_tree(config), config.network)
        channel = build_channel(config, config.network, sites)
        gains.append([channel.gain(3, device, access) for device, access in sites.access.items()])
    assert gains[0] == gains[1]
    assert len(set(gains[0])) == 6
