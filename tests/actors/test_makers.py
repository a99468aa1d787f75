"""Who made which version: what nodes are given from the makers is what each of them would hold itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st

from fogtune.actors.makers import START, Makers, laid_out
from fogtune.actors.parts import assembled
from fogtune.platform.aggregation import Tensors
from fogtune.platform.aggregation.tier import TierState
from fogtune.platform.config import Config
from fogtune.platform.federation.holdings import Holdings
from fogtune.platform.federation.messages import RoundPlan
from fogtune.platform.ownership import own
from fogtune.platform.topology_build import build_tree

MakeConfig = Callable[..., Config]

DEEP = 'topology.tiers=[{"name": "region", "count": 2}, {"name": "fog", "count": 4}]'
SCOPES = (
    'federation.modules=[{"match": "head/*", "scope": "fog"}, {"match": "prompt/*", "scope": "region"}, '
    '{"match": "expert/*", "compression": [{"kind": "quantise", "bits": 8}]}]'
)
LATE = ("devices.1.joins=3", "tasks.exercise.begins=2")


@given(data=st.data(), late=st.booleans(), deep=st.booleans())
def test_nodes_have_what_they_would_hold_themselves(
    tiny: MakeConfig, data: st.DataObject, late: bool, deep: bool
) -> None:
    """Rounds in which any nodes make new versions of any modules, against plain copies in every node."""
    config = tiny(SCOPES if deep else "rounds=4", *([DEEP] if deep else []), *(LATE if late else []))
    tree = build_tree(config)
    ownership = own(config, tree)
    holdings, makers = Holdings(tree, ownership), Makers(tree, ownership)
    state = holdings.at_the_start()
    copies = {node: dict.fromkeys(makers.of(node), (START, 0)) for node in tree.aggregators}
    """Node -> module -> (who made its version, in which round)."""
    held = {node: dict.fromkeys(makers.held(node), (START, 0)) for node in tree.aggregators}
    """The same, of the versions that really lie there."""

    def given_by_makers() -> dict[str, dict[str, tuple[str, int]]]:
        return {
            node: {m: held[by][m] if by != START else (START, 0) for m, by in makers.of(node).items()}
            for node in tree.aggregators
        }

    assert given_by_makers() == copies
    for number in (1, 2, 3, 4):
        first = holdings.lacking(state, number)
        for node, modules in first.items():
            above = copies[tree[node].parent or ""]
            copies[node] |= {module: above[module] for module in modules}
            held[node] |= {module: above[module] for module in makers.receive(node, modules)}
        changed = {}
        for node in tree.aggregators:
            trained = [m for m in makers.of(node) if ownership.begins_below[node][m] <= number]
            changed[node] = tuple(data.draw(st.lists(st.sampled_from(trained), unique=True)) if trained else ())
            copies[node] |= dict.fromkeys(changed[node], (node, number))
            held[node] |= dict.fromkeys(changed[node], (node, number))
        makers.make(changed)
        holdings.note(state, RoundPlan(number, (), personal=False, evaluate=False, first=first), [])
        adopted = holdings.descend(state, number, changed)
        for node, modules in adopted.items():
            above = copies[tree[node].parent or ""]
            copies[node] |= {module: above[module] for module in modules}
        taken, left = makers.descend(changed, adopted)
        for node in reversed(tree.aggregators):
            held[node] |= {module: copies[node][module] for module in taken.get(node, ())}
            held[node] = {m: found for m, found in held[node].items() if m not in left.get(node, ())}
        assert given_by_makers() == copies
        assert all(set(held[node]) == set(makers.held(node)) for node in tree.aggregators)


def test_where_all_is_averaged_at_the_cloud_nothing_lies_below_it(tiny: MakeConfig) -> None:
    tree = build_tree(tiny(DEEP))
    makers = Makers(tree, own(tiny(DEEP), tree))
    assert {node: bool(makers.held(node)) for node in tree.aggregators} == {n: n == "cloud" for n in tree.aggregators}
    layout, places = laid_out({node: makers.of(node) for node in tree.aggregators}, lambda maker: maker)
    assert places == ("cloud",)
    assert {index for pieces in layout.values() for index, _, _ in pieces} == {0}


def test_states_are_taken_apart_and_put_together(tiny: MakeConfig) -> None:
    config = tiny(SCOPES, DEEP)
    tree = build_tree(config)
    ownership = own(config, tree)
    start: dict[str, Tensors] = {module: {"weight": torch.zeros(1)} for module in ownership.modules}
    makers = Makers(tree, ownership)
    shared: dict[str, Tensors] = {module: {"weight": torch.ones(1)} for module in ownership.modules}
    states = {node: TierState({module: shared[module] for module in makers.of(node)}) for node in tree.aggregators}
    alone: Tensors = {"weight": torch.full((1,), 7.0)}
    states["fog-1"] = TierState({**states["fog-1"].versions, "adapter/fusion": alone})
    untold: Tensors = {"weight": torch.zeros(1)}
    states["fog-2"] = TierState({**states["fog-2"].versions, "router/fusion": untold})
    lying = makers.restore(states, start)
    assert set(lying["cloud"].versions) == set(makers.of("cloud"))
    assert set(lying["region-0"].versions) == {m for m in makers.of("region-0") if m.startswith(("prompt/", "expert/"))}
    assert "adapter/fusion" in lying["fog-1"].versions
    assert "adapter/fusion" not in lying["fog-0"].versions
    assert "router/fusion" not in lying["fog-2"].versions  # version 0 lies everywhere
    again = makers.whole(lying, start)
    assert again.keys() == states.keys()
    for node, state in states.items():
        assert list(again[node].versions) == list(state.versions)
        expected = {
            module: start[module] if version is untold else version for module, version in state.versions.items()
        }
        assert all(again[node].versions[module] is version for module, version in expected.items())


def test_nodes_that_have_the_same_are_given_one_value() -> None:
    part = {"cloud": {"a": {"w": torch.zeros(1)}, "b": {"w": torch.ones(1)}}}
    pieces = ((0, "cloud", ("a", "b")),)
    found = assembled({"fog-0": pieces, "fog-1": pieces, "fog-2": ((0, "cloud", ("a",)),)}, [part])
    assert found["fog-0"] is found["fog-1"]
    assert list(found["fog-2"]) == ["a"]
    assert found["fog-2"]["a"] is part["cloud"]["a"]
