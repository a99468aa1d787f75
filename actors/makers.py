"""Who made the versions that nodes have: a version lies with its maker, and those who took it over hold no copy.

Only some modules lie at every node: those whose sums are quantised, as each node rounds them in its own way or tells
changes of them; all of them, where a node may miss versions of its parent and go on from the one that it has.
Plain book-keeping, without Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from fogtune.platform.aggregation import Tensors
from fogtune.platform.aggregation.requantise import of_sums
from fogtune.platform.aggregation.sums import same_tensors
from fogtune.platform.aggregation.tier import TierState
from fogtune.platform.ownership import Ownership
from fogtune.platform.topology import Tree

from .parts import Layout

Modules = Mapping[str, tuple[str, ...]]
"""Aggregating node -> some modules."""
START = ""
"""Maker of version 0, for nodes that were not told that others have gone on from it."""


class Makers:
    """Keeps, of every aggregating node, the maker of its version of each module."""

    def __init__(self, tree: Tree, ownership: Ownership, some_miss: bool = False) -> None:
        """Version 0 lies where a module is averaged for good; `some_miss`, if nodes may miss versions."""
        self._tree = tree
        self.everywhere = frozenset(m for m in ownership.modules if some_miss or of_sums(ownership.compression(m)))
        self._ownership = ownership
        self._of: dict[str, dict[str, str]] = {}
        """Node, from the top down -> module that it has, in order -> maker."""
        for node in reversed(tree.aggregators):
            at = {tree[above].tier: above for above in tree.path_up(node)}
            held = (m for m in ownership.subtree_modules(node) if ownership.reaches(m, tree[node].tier))
            self._of[node] = {m: node if m in self.everywhere else at[ownership.scope(m)] for m in held}

    def of(self, node: str) -> Mapping[str, str]:
        """Module -> maker, of all modules that a node has, in order."""
        return self._of[node]

    def held(self, node: str) -> tuple[str, ...]:
        """The modules that lie at the node itself."""
        return tuple(module for module, maker in self._of[node].items() if maker == node)

    def of_parent(self, node: str, modules: Iterable[str]) -> dict[str, str]:
        """Of some modules, the makers of the versions of a node's parent."""
        above = self._of[self._tree[node].parent or ""]
        return {module: above[module] for module in modules}

    def receive(self, node: str, modules: Iterable[str]) -> tuple[str, ...]:
        """A node gets modules that it lacked from its parent. Returns those that are to lie with it."""
        self._of[node] |= self.of_parent(node, (m for m in modules if m not in self.everywhere))
        return tuple(module for module in modules if module in self.everywhere)

    def make(self, changed: Modules) -> None:
        """Nodes have made new versions."""
        for node, modules in changed.items():
            self._of[node] |= dict.fromkeys(modules, node)

    def descend(self, changed: Modules, adopted: Mapping[str, Sequence[str]]) -> tuple[Modules, Modules]:
        """Versions go down after a round.

        Args:
            changed: node -> modules of which it has made new versions in the round.
            adopted: node, from the top down -> modules that it takes over from its parent.

        Returns:
            Node -> modules that are to lie with it, as its parent has them now; node -> modules of which the version
            that lies with it is out of use.
        """
        taken: dict[str, tuple[str, ...]] = {}
        left: dict[str, tuple[str, ...]] = {}
        for node, modules in adopted.items():
            makers = self._of[node]
            others = self.of_parent(node, (m for m in modules if m not in self.everywhere))
            # Who is not told of its maker's new version has the one before: version 0, or it would be told.
            unaware = {m: START for m, maker in makers.items() if maker != node and m in changed.get(maker, ())}
            if own := tuple(module for module in modules if module in self.everywhere):
                taken[node] = own
            if given_up := tuple(module for module in others if makers[module] == node):
                left[node] = given_up
            self._of[node] = makers | unaware | others
        return taken, left

    def restore(self, states: Mapping[str, TierState], start: Mapping[str, Tensors]) -> dict[str, TierState]:
        """Begin anew from whole states, in which nodes that have the same version share it.

        Args:
            states: of all nodes.
            start: module -> version 0.

        Returns:
            Node -> its state, with the versions that lie with it.
        """
        own = {}
        for node in self._of:
            tier, parent = self._tree[node].tier, self._tree[node].parent or ""
            versions = states[node].versions
            makers = dict.fromkeys(versions, node)
            for module, version in versions.items():
                if module in self.everywhere or self._ownership.scope(module) == tier:
                    continue
                if states[parent].versions[module] is version:
                    makers[module] = self._of[parent][module]
                elif same_tensors(version, start[module]):
                    makers[module] = START
            self._of[node] = makers
            own[node] = replace(states[node], versions={module: versions[module] for module in self.held(node)})
        return own

    def whole(self, own: Mapping[str, TierState], start: Mapping[str, Tensors]) -> dict[str, TierState]:
        """The states that `restore` took apart."""
        versions = {START: start, **{node: state.versions for node, state in own.items()}}
        return {
            node: replace(state, versions={module: versions[maker][module] for module, maker in self._of[node].items()})
            for node, state in own.items()
        }


def laid_out(makers: Mapping[str, Mapping[str, str]], place: Callable[[str], str]) -> tuple[Layout, tuple[str, ...]]:
    """The layout of some versions.

    Args:
        makers: node -> module -> maker.
        place: maker -> where its versions lie.

    Returns:
        The layout, and the places of its parts.
    """
    index: dict[str, int] = {}
    layout = {}
    for node, found in makers.items():
        made: dict[str, list[str]] = {}
        for module, maker in found.items():
            made.setdefault(maker, []).append(module)
        layout[node] = tuple(
            (index.setdefault(place(maker), len(index)), maker, tuple(modules)) for maker, modules in made.items()
        )
    return layout, tuple(index)
