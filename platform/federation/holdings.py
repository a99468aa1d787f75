"""Who holds which version of a module, and so who has to get which from where.

Every node makes version 0 itself, from the run's seed: it is never sent. A node below the cloud is sent the modules of
devices that have joined, and gets those of a device that joins later at the beginning of that round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fogtune.platform.ownership import Ownership
from fogtune.platform.topology import CLOUD, Tree

from .messages import DeviceReport, RoundPlan
from .state import OWN, CoordinatorState


class Holdings:
    """Reads and writes the stamps in a coordinator's state."""

    def __init__(self, tree: Tree, ownership: Ownership) -> None:
        self._tree = tree
        self._begins = ownership.begins_of
        self._joins = {device: min(begins.values()) for device, begins in self._begins.items()}
        self._modules: dict[str, dict[str, int]] = {}
        """Aggregating node -> module that it holds -> round from which a device below it trains the module."""
        for node in tree.aggregators:
            below = set(tree.leaves(node))
            self._modules[node] = {
                module: min(self._begins[device][module] for device in ownership.owners_of[module] if device in below)
                for module in ownership.subtree_modules(node)
                if ownership.reaches(module, tree[node].tier)
            }

    def at_the_start(self) -> CoordinatorState:
        """The state before round 1."""
        return CoordinatorState(stamps={node: dict.fromkeys(found, 0) for node, found in self._modules.items()})

    def joined(self, round_number: int) -> tuple[str, ...]:
        """The devices that may take part, in the tree's order."""
        return tuple(device for device, joins in self._joins.items() if joins <= round_number)

    def begins(self, module: str) -> int:
        """Round from which any device trains a module of which the cloud has a version."""
        return self._modules[CLOUD][module]

    def trained(self, device: str, round_number: int) -> tuple[str, ...]:
        """The modules that a device trains in a round, if it has them all."""
        return tuple(module for module, begins in self._begins[device].items() if begins <= round_number)

    def lacking(self, state: CoordinatorState, round_number: int) -> dict[str, tuple[str, ...]]:
        """Aggregating node, from the top down -> modules that it needs from this round on and has only version 0 of."""
        lacking: dict[str, tuple[str, ...]] = {}
        for node in reversed(self._tree.aggregators):
            above = self._stamps(state, self._tree[node].parent, lacking)
            needed = [module for module, begins in self._modules[node].items() if begins == round_number > 1]
            if found := tuple(module for module in needed if above.get(module)):
                lacking[node] = found
        return lacking

    def _stamps(
        self, state: CoordinatorState, node: str | None, lacking: Mapping[str, Sequence[str]]
    ) -> dict[str, int]:
        """Of a node's versions, once it has been given those that it lacks."""
        if node is None:
            return {}
        above = self._stamps(state, self._tree[node].parent, lacking) if lacking.get(node) else {}
        return state.stamps[node] | {module: above[module] for module in lacking.get(node, ())}

    def fetched(
        self, state: CoordinatorState, device: str, modules: Iterable[str], lacking: Mapping[str, Sequence[str]]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a device has to download of the modules that it is to train.

        Returns:
            Modules of which its parent has a newer version; and of these, those whose version before it has.
        """
        parent, held = self._tree[device].parent or "", state.held.get(device, {})
        newest, before = self._stamps(state, parent, lacking), state.previous.get(parent, {})
        fetched = tuple(m for m in modules if m in newest and held.get(m, 0) not in (OWN, newest[m]))
        return fetched, tuple(m for m in fetched if held.get(m, 0) == before.get(m))

    def having(
        self, state: CoordinatorState, devices: Iterable[str], lacking: Mapping[str, Sequence[str]]
    ) -> dict[str, frozenset[str]]:
        """Module -> those of some devices that have trained it before and still have its parent's newest version."""
        having: dict[str, set[str]] = {}
        for device in devices:
            newest = self._stamps(state, self._tree[device].parent, lacking)
            for module, stamp in state.held.get(device, {}).items():
                if stamp and stamp == newest.get(module):
                    having.setdefault(module, set()).add(device)
        return {module: frozenset(found) for module, found in having.items()}

    def note(self, state: CoordinatorState, plan: RoundPlan, reports: Sequence[DeviceReport]) -> None:
        """Remember what a round has given nodes at its beginning, and what devices that delivered now hold."""
        for node, modules in plan.first.items():
            above = state.stamps[self._tree[node].parent or ""]
            state.stamps[node] |= {module: above[module] for module in modules}
        orders = {order.device: order for order in plan.orders}
        for report in reports:
            if report.error is None:
                held = state.held.setdefault(report.device, {})
                stamps = state.stamps[self._tree[report.device].parent or ""]
                for module in orders[report.device].modules:
                    held[module] = OWN if module in report.kept else stamps.get(module, 0)

    def descend(
        self, state: CoordinatorState, round_number: int, changed: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[str, ...]]:
        """Which new versions go down the tree after a round; notes the stamps of all new versions.

        Args:
            state: the coordinator's.
            round_number: the round.
            changed: aggregating node -> modules that it made a new version of.

        Returns:
            Aggregating node, from the top down -> modules that it takes over from its parent.
        """
        adopted: dict[str, tuple[str, ...]] = {}
        for node in reversed(self._tree.aggregators):
            parent = self._tree[node].parent
            if parent is not None:
                new = {*changed.get(parent, ()), *adopted.get(parent, ())}
                modules = self._modules[node].items()
                adopted[node] = tuple(m for m, begins in modules if m in new and begins <= round_number)
            for module in dict.fromkeys((*changed.get(node, ()), *adopted.get(node, ()))):
                state.previous.setdefault(node, {})[module] = state.stamps[node][module]
                state.stamps[node][module] = round_number
        return adopted
