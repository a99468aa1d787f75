"""Aggregating nodes in actors: one each where they are few, else those of a neighbourhood together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fogtune.actors.node_packing import pack_nodes
from fogtune.platform.config import Config
from fogtune.platform.topology import Tree
from fogtune.platform.topology_build import build_tree


@pytest.fixture
def tree(tiny: Callable[..., Config]) -> Callable[..., Tree]:
    """Makes a tree of regions and fog nodes; fog nodes are dealt to regions in turn."""

    def make(regions: int, fogs: int) -> Tree:
        tiers = f'[{{"name": "region", "count": {regions}}}, {{"name": "fog", "count": {fogs}}}]'
        return build_tree(tiny(f"topology.tiers={tiers}", "devices.0.count=120"))

    return make


def test_a_node_an_actor_while_they_are_few(tree: Callable[..., Tree]) -> None:
    names = [packed.name for packed in pack_nodes(tree(1, 3), "auto", 2)]
    assert names == ["fog/0", "fog/1", "fog/2", "region/0"]


def test_many_are_packed_by_neighbourhood(tree: Callable[..., Tree]) -> None:
    packed = pack_nodes(tree(2, 100), "auto", 2)
    assert [(some.name, len(some.nodes)) for some in packed] == [
        ("fog/0..98", 50),
        ("fog/1..99", 50),
        ("region/0+1", 2),
    ]
    assert packed[0].nodes[:3] == ("fog-0", "fog-2", "fog-4")  # of region-0


def test_a_star_has_none(tiny: Callable[..., Config]) -> None:
    assert pack_nodes(build_tree(tiny("topology.tiers=[]")), "auto", 2) == ()


@pytest.mark.parametrize("per_actor", ["auto", 1, 2, 3, 7, 50])
@pytest.mark.parametrize("processors", [1, 2, 5])
def test_every_node_is_in_one_actor_with_others_of_its_tier(
    tree: Callable[..., Tree], per_actor: int | str, processors: int
) -> None:
    made = tree(3, 11)
    packed = pack_nodes(made, per_actor, processors)  # type: ignore[arg-type]
    assert sorted(node for some in packed for node in some.nodes) == sorted(made.aggregators[:-1])
    assert len({some.name for some in packed}) == len(packed)
    for some in packed:
        assert len({made[node].tier for node in some.nodes}) == 1
        assert per_actor == "auto" or len(some.nodes) <= int(per_actor)
    for tier in ("region", "fog"):
        sizes = [len(some.nodes) for some in packed if made[some.nodes[0]].tier == tier]
        assert max(sizes) - min(sizes) <= 1


def test_an_actor_is_on_one_machine(tiny: Callable[..., Config]) -> None:
    machines = "execution.machines={north: [fog-0, fog-2], south: [fog-1]}"
    tree = build_tree(tiny("topology.tiers=[{name: fog, count: 3}]", "execution.placement=labels", machines))
    assert [packed.nodes for packed in pack_nodes(tree, 8, 1)] == [("fog-0", "fog-2"), ("fog-1",)]
