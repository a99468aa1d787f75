"""Trees by hand: by count, written out, by position; at depths 2, 3 and 4."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.topology import Tree
from fogtune.platform.topology_build import build_tree, tier_names


def config(topology: dict[str, Any], counts: dict[str, int], seed: int = 0) -> Config:
    return Config.model_validate(
        {
            "seed": seed,
            "topology": topology,
            "devices": [
                {"name": name, "count": count, "modalities": ["text"], "tasks": ["topic"]}
                for name, count in counts.items()
            ],
            "sources": {"news": {"kind": "embedded", "asset": "bbc-news", "partition": {"kind": "iid"}}},
            "tasks": {"topic": {"source": "news", "inputs": ["text"], "label": "topic"}},
        }
    )


def tree_of(topology: dict[str, Any], counts: dict[str, int], seed: int = 0) -> Tree:
    return build_tree(config(topology, counts, seed))


def parents(tree: Tree) -> list[tuple[str, str | None]]:
    return [(node.id, node.parent) for node in tree]


def counted(**tiers: int) -> dict[str, Any]:
    return {"kind": "counted", "tiers": [{"name": name, "count": count} for name, count in tiers.items()]}


def placed(count: int = 4, **fields: Any) -> dict[str, Any]:
    return {"kind": "placed", "tiers": [{"name": "fog", "count": count}], **fields}


def refusal(topology: dict[str, Any], counts: dict[str, int]) -> str:
    with pytest.raises(InputError) as caught:
        tree_of(topology, counts)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_counted_star() -> None:
    tree = tree_of(counted(), {"camera": 2, "watch": 1})
    assert tree.tiers == ("cloud", "device")
    assert parents(tree) == [("cloud", None), ("camera-0", "cloud"), ("camera-1", "cloud"), ("watch-0", "cloud")]
    assert [node.group for node in tree] == [None, "camera", "camera", "watch"]


def test_counted_depth_three_deals_devices_in_turn_over_the_groups() -> None:
    tree = tree_of(counted(fog=2), {"camera": 3, "watch": 2})
    assert tree.tiers == ("cloud", "fog", "device")
    assert parents(tree)[1:] == [
        ("fog-0", "cloud"),
        ("fog-1", "cloud"),
        ("camera-0", "fog-0"),
        ("camera-1", "fog-1"),
        ("camera-2", "fog-0"),
        ("watch-0", "fog-1"),
        ("watch-1", "fog-0"),
    ]
    assert tree.aggregators == ("fog-1", "fog-0", "cloud")


def test_counted_depth_four_deals_each_tier_to_the_one_above() -> None:
    tree = tree_of(counted(region=2, fog=3), {"camera": 4})
    assert tree.tiers == ("cloud", "region", "fog", "device")
    assert tree.children == {
        "cloud": ("region-0", "region-1"),
        "region-0": ("fog-0", "fog-2"),
        "region-1": ("fog-1",),
        "fog-0": ("camera-0", "camera-3"),
        "fog-1": ("camera-1",),
        "fog-2": ("camera-2",),
        **{f"camera-{i}": () for i in range(4)},
    }
    assert tree.leaves("region-0") == ("camera-0", "camera-3", "camera-2")
    assert tree.path_up("camera-1") == ("camera-1", "fog-1", "region-1", "cloud")


def test_listed_keeps_the_written_order_and_the_devices_that_of_the_configuration() -> None:
    written = {"north": {"fog-b": ["watch-0"], "fog-a": ["camera-1"]}, "south": {"fog-c": ["camera-0"]}}
    tree = tree_of(
        {"kind": "listed", "tier_names": ["region", "fog"], "tree": written},
        {"camera": 2, "watch": 1},
    )
    assert tree.tiers == ("cloud", "region", "fog", "device")
    assert [(node.id, node.tier, node.parent, node.group) for node in tree][1:] == [
        ("north", "region", "cloud", None),
        ("south", "region", "cloud", None),
        ("fog-b", "fog", "north", None),
        ("fog-a", "fog", "north", None),
        ("fog-c", "fog", "south", None),
        ("camera-0", "device", "fog-c", "camera"),
        ("camera-1", "device", "fog-a", "camera"),
        ("watch-0", "device", "fog-b", "watch"),
    ]


NO_NAME = "is no name; allowed: letters, digits, '_', '.', '-', at most 64"


@pytest.mark.parametrize(
    ("tree", "tier_names", "line"),
    [
        (
            {"a": ["camera-0"]},
            [],
            "topology.tier_names: [] given; allowed: a name a level of topology.tree, at least 1",
        ),
        (
            {"a": {"b": ["camera-0"]}},
            ["fog"],
            "topology.tree.a: {'b': ['camera-0']} given; allowed: a list of devices (topology.tier_names: fog)",
        ),
        (
            {"a": ["camera-0"]},
            ["region", "fog"],
            "topology.tree.a: ['camera-0'] given; allowed: a mapping of fog nodes (topology.tier_names: region, fog)",
        ),
        ({"a": None}, ["fog"], "topology.tree.a: null given; allowed: a list of devices (topology.tier_names: fog)"),
        (
            {"a": ["camera-0", "camera-1"], "b": ["camera-0"]},
            ["fog"],
            "topology.tree.b.0: 'camera-0' is used twice; allowed: an id a node, not cloud",
        ),
        (
            {"cloud": ["camera-0", "camera-1"]},
            ["fog"],
            "topology.tree.cloud: 'cloud' is used twice; allowed: an id a node, not cloud",
        ),
        (
            {"a": {"a": ["camera-0", "camera-1"]}},
            ["region", "fog"],
            "topology.tree.a.a: 'a' is used twice; allowed: an id a node, not cloud",
        ),
        ({"a": ["camera-0", 1]}, ["fog"], f"topology.tree.a.1: 1 {NO_NAME}"),
        ({"a": {"b c": []}}, ["region", "fog"], f"topology.tree.a.b c: 'b c' {NO_NAME}"),
        (
            {"a": ["camera-0", "camera-2"]},
            ["fog"],
            "topology.tree: device 'camera-2' is in no group; allowed: devices of camera",
        ),
        (
            {"a": ["camera-0"]},
            ["fog"],
            "topology.tree: device 'camera-1' does not stand in it; allowed: every device once",
        ),
        (
            {"camera-1": ["camera-0"]},
            ["fog"],
            "topology: node id 'camera-1' is used twice; allowed: other names of tiers and groups",
        ),
    ],
)
def test_a_written_tree_that_does_not_fit_is_refused(tree: dict[str, Any], tier_names: list[str], line: str) -> None:
    assert refusal({"kind": "listed", "tier_names": tier_names, "tree": tree}, {"camera": 2}) == line


@pytest.mark.parametrize(
    ("topology", "line"),
    [
        (counted(cloud=1), "topology.tiers.0.name: 'cloud' is reserved; allowed: any name but cloud, device"),
        (counted(fog=1, device=1), "topology.tiers.1.name: 'device' is reserved; allowed: any name but cloud, device"),
        (
            {"kind": "placed", "tiers": [{"name": "fog", "count": 1}, {"name": "fog", "count": 2}]},
            "topology.tiers.1.name: 'fog' is given twice; allowed: a name a tier",
        ),
        (
            {"kind": "listed", "tier_names": ["cloud"], "tree": {"a": []}},
            "topology.tier_names.0: 'cloud' is reserved; allowed: any name but cloud, device",
        ),
        (counted(camera=1), "topology: node id 'camera-0' is used twice; allowed: other names of tiers and groups"),
    ],
)
def test_reserved_and_repeated_names_are_refused(topology: dict[str, Any], line: str) -> None:
    assert refusal(topology, {"camera": 2}) == line


def test_devices_are_told_from_other_nodes_and_from_what_is_no_node() -> None:
    tree = tree_of(counted(fog=1), {"camera": 2})
    assert [node.id for node in tree if tree.is_device(node.id)] == list(tree.devices) == ["camera-0", "camera-1"]
    assert not tree.is_device("ap-0")


def test_tier_names_without_building() -> None:
    assert tier_names(config(counted(region=1, fog=1), {"camera": 1}).topology) == ("cloud", "region", "fog", "device")
    assert tier_names(config(placed(), {"camera": 1}).topology) == ("cloud", "fog", "device")


def position(tree: Tree, node_id: str) -> tuple[float, float]:
    node = tree[node_id]
    assert node.x_m is not None
    assert node.y_m is not None
    return node.x_m, node.y_m


def test_placed_geometry() -> None:
    topology = {
        "kind": "placed",
        "tiers": [{"name": "region", "count": 3}, {"name": "fog", "count": 8}],
        "side_m": 1000.0,
        "separation_m": 150.0,
        "radius_m": 200.0,
    }
    tree = tree_of(topology, {"camera": 30, "watch": 10}, seed=3)
    assert position(tree, "cloud") == (500.0, 500.0)
    of_tier = {tier: [node.id for node in tree if node.tier == tier] for tier in tree.tiers}
    assert [len(of_tier[tier]) for tier in ("region", "fog", "device")] == [3, 8, 40]
    for node in tree:
        assert all(0 <= coordinate <= 1000 for coordinate in position(tree, node.id))
    for tier in ("region", "fog"):
        points = [position(tree, node_id) for node_id in of_tier[tier]]
        assert all(math.dist(a, b) >= 150 for i, a in enumerate(points) for b in points[:i])
    for lower, upper in (("region", "cloud"), ("fog", "region"), ("device", "fog")):
        for node_id in of_tier[lower]:
            parent = tree[node_id].parent
            assert parent in of_tier[upper]
            reach = [math.dist(position(tree, node_id), position(tree, other)) for other in of_tier[upper]]
            assert math.dist(position(tree, node_id), position(tree, parent)) == min(reach)
    for i, device in enumerate(tree.devices):
        assert math.dist(position(tree, device), position(tree, f"fog-{i % 8}")) <= 200


def test_placement_depends_on_the_seed_and_a_device_not_on_the_others() -> None:
    few = tree_of(placed(), {"camera": 3})
    more = tree_of(placed(), {"camera": 3, "watch": 5})
    assert list(few) == list(more)[: len(few.nodes)]
    other = tree_of(placed(), {"camera": 3}, seed=1)
    assert position(other, "fog-0") != position(few, "fog-0")
    assert position(other, "camera-0") != position(few, "camera-0")


def test_devices_fill_the_clipped_disc_evenly() -> None:
    # A radius far beyond the square: the clipped disc is the square, each quarter gets its share.
    tree = tree_of(placed(1, side_m=100.0, radius_m=1e6), {"camera": 400})
    quarters = [0, 0, 0, 0]
    for device in tree.devices:
        x_m, y_m = position(tree, device)
        quarters[2 * (x_m > 50) + (y_m > 50)] += 1
    # Binomial(400, 1/4) has mean 100 and standard deviation 8.7; the draw is fixed by the seed.
    assert all(70 <= quarter <= 130 for quarter in quarters)
    # Uniform in a disc: half of the devices lie within 1/sqrt(2) of the radius.
    tree = tree_of(placed(1, side_m=1e6, radius_m=1.0), {"camera": 400})
    home = position(tree, "fog-0")
    near = sum(math.dist(position(tree, device), home) <= math.sqrt(0.5) for device in tree.devices)
    assert 160 <= near <= 240


def test_nodes_that_do_not_fit_are_refused() -> None:
    assert refusal(placed(9, side_m=100.0, separation_m=100.0), {"camera": 9}).startswith(
        "topology.tiers.0.count: 9 nodes do not fit 100 m apart into a square of 100 m ("
    )
