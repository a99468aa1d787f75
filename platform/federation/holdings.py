"""Who holds which version of a module, and so who has to get which from where.

Every node makes version 0 itself, from the run's seed: it is never sent. A node below the cloud is sent the modules of
devices that have joined, and gets those of a device that joins later at the beginning of that round.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

from fogtune.platform.modules import is_statistics
from fogtune.platform.ownership import Ownership
from fogtune.platform.topology import CLOUD, Tree

from .messages import DeviceOrder, DeviceReport, RoundPlan
from .state import OWN, CoordinatorState

Stamps = Mapping[str, int]
"""Module -> stamp of a version."""


class Fetching:
    """What devices have to download in one round. Those that hold the same, below nodes that do, are alike."""

    def __init__(self, holdings: Holdings, state: CoordinatorState, lacking: Mapping[str, Sequence[str]]) -> None:
        self._holdings = holdings
        self._state = state
        self._lacking = lacking
        self._nodes: dict[str, tuple[int, Stamps, Stamps]] = {}
        """Node -> number of what it holds, its versions, those before them."""
        self._numbers: dict[Hashable, int] = {}

    def likeness(self, device: str) -> tuple[int, int]:
        """The same for two devices of a group only if they have to download the same of the same modules."""
        return self._node_above(device)[0], id(self._state.held.get(device))

    def of(self, device: str, modules: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a device has to download of the modules that it is to train.

        Returns:
            Modules of which its parent has a newer version; and of these, those whose version before it has.
        """
        _, newest, before = self._node_above(device)
        held = self._state.held.get(device, {})
        fetched = tuple(m for m in modules if m in newest and held.get(m, 0) not in (OWN, newest[m]))
        return fetched, tuple(m for m in fetched if held.get(m, 0) == before.get(m))

    def _node_above(self, device: str) -> tuple[int, Stamps, Stamps]:
        node = self._holdings.parent_of(device)
        if node not in self._nodes:
            newest = self._holdings.stamps(self._state, node, self._lacking)
            before = self._state.previous.get(node, {})
            number = self._numbers.setdefault((tuple(newest.items()), tuple(before.items())), len(self._numbers))
            self._nodes[node] = number, newest, before
        return self._nodes[node]


class Holdings:
    """Reads and writes the stamps in a coordinator's state."""

    def __init__(self, tree: Tree, ownership: Ownership) -> None:
        self._tree = tree
        self._ownership = ownership
        self._joins = {group: min(kind.begins.values()) for group, kind in ownership.kinds.items()}
        self._joined: dict[frozenset[str], tuple[str, ...]] = {}
        self._modules: dict[str, dict[str, int]] = {
            node: {m: begins for m, begins in below.items() if ownership.reaches(m, tree[node].tier)}
            for node, below in ownership.begins_below.items()
        }
        """Aggregating node -> module that it holds -> round from which a device below it trains the module."""
        self._beginnings = {begins for modules in self._modules.values() for begins in modules.values()}

    def at_the_start(self) -> CoordinatorState:
        """The state before round 1."""
        return CoordinatorState(stamps={node: dict.fromkeys(found, 0) for node, found in self._modules.items()})

    def joined(self, round_number: int) -> tuple[str, ...]:
        """The devices that may take part, in the tree's order."""
        groups = frozenset(group for group, joins in self._joins.items() if joins <= round_number)
        if groups not in self._joined:
            self._joined = {groups: tuple(d for d in self._tree.devices if self._tree[d].group in groups)}
        return self._joined[groups]

    def begins(self, module: str) -> int:
        """Round from which any device trains a module of which the cloud has a version."""
        return self._modules[CLOUD][module]

    def parent_of(self, device: str) -> str:
        """The node of which a device gets its versions."""
        return self._tree[device].parent or ""

    def trained(self, device: str, round_number: int) -> tuple[str, ...]:
        """The modules that a device trains in a round, if it has them all."""
        begins_of = self._ownership.kind_of(device).begins
        return tuple(module for module, begins in begins_of.items() if begins <= round_number)

    def lacking(self, state: CoordinatorState, round_number: int) -> dict[str, tuple[str, ...]]:
        """Aggregating node, from the top down -> modules that it needs from this round on and has only version 0 of."""
        lacking: dict[str, tuple[str, ...]] = {}
        if round_number == 1 or round_number not in self._beginnings:
            return lacking
        for node in reversed(self._tree.aggregators):
            parent = self._tree[node].parent
            above = {} if parent is None else self.stamps(state, parent, lacking)
            needed = [module for module, begins in self._modules[node].items() if begins == round_number]
            if found := tuple(module for module in needed if above.get(module)):
                lacking[node] = found
        return lacking

    def stamps(self, state: CoordinatorState, node: str, lacking: Mapping[str, Sequence[str]]) -> Stamps:
        """Of an aggregating node's versions, once it has been given those that it lacks."""
        if not lacking.get(node):
            return state.stamps[node]
        above = self.stamps(state, self._tree[node].parent or "", lacking)
        return state.stamps[node] | {module: above[module] for module in lacking[node]}

    def having(
        self, state: CoordinatorState, devices: Iterable[str], lacking: Mapping[str, Sequence[str]]
    ) -> dict[str, frozenset[str]]:
        """Module -> those of some devices that have trained it before and still have its parent's newest version."""
        having: dict[str, set[str]] = {}
        for device in devices:
            newest = self.stamps(state, self.parent_of(device), lacking)
            for module, stamp in state.held.get(device, {}).items():
                if stamp and stamp == newest.get(module):
                    having.setdefault(module, set()).add(device)
        return {module: frozenset(found) for module, found in having.items()}

    def note(self, state: CoordinatorState, plan: RoundPlan, reports: Sequence[DeviceReport]) -> None:
        """Remember what a round has given nodes at its beginning, and what devices that delivered now hold."""
        for node, modules in plan.first.items():
            above = state.stamps[self._tree[node].parent or ""]
            state.stamps[node] = state.stamps[node] | {module: above[module] for module in modules}
        orders = {order.device: order for order in plan.orders}
        numbers: dict[Hashable, int] = {}
        number_of = {
            node: numbers.setdefault(tuple(stamps.items()), len(numbers)) for node, stamps in state.stamps.items()
        }
        # What a device held before is kept beside what it holds now: as long as it is, nothing else has its id.
        alike: dict[Hashable, tuple[object, dict[str, int | str]]] = {}
        for report in reports:
            if report.error is None:
                before, modules = state.held.get(report.device), orders[report.device].modules
                parent = self.parent_of(report.device)
                if orders[report.device].begun is not None:
                    state.held[report.device] = {**(before or {}), **dict.fromkeys(report.kept, OWN)}
                    continue
                likeness = id(before), number_of[parent], modules, report.kept
                if likeness not in alike:
                    stamps, kept = state.stamps[parent], frozenset(report.kept)
                    now = {module: OWN if module in kept else stamps.get(module, 0) for module in modules}
                    alike[likeness] = before, {**(before or {}), **now}
                state.held[report.device] = alike[likeness][1]

    def note_fetched(self, state: CoordinatorState, orders: Iterable[DeviceOrder]) -> None:
        """Remember what devices have got in a round, of which nothing more is heard in it."""
        for order in orders:
            stamps = state.stamps[self.parent_of(order.device)]
            got = {module: stamps[module] for module in order.fetched}
            state.held[order.device] = {**state.held.get(order.device, {}), **got}

    def behind(self, state: CoordinatorState, order: DeviceOrder) -> dict[str, int]:
        """Module that a device sends -> by how many rounds its parent's version is newer than the device's; without
        those that are as new, and those that are measured."""
        newest, held = state.stamps[self.parent_of(order.device)], state.held.get(order.device, {})
        known = {m: held.get(m, 0) for m in order.upward if m in newest and not is_statistics(m)}
        return {m: newest[m] - stamp for m, stamp in known.items() if isinstance(stamp, int) and stamp < newest[m]}

    def nodes_behind(self, state: CoordinatorState, away: Collection[str]) -> dict[str, dict[str, int]]:
        """The same of the nodes that have missed versions of their parents, but for those that still are away."""
        behind = {}
        for node, missed in state.missed.items():
            if node not in away:
                newest = state.stamps[self._tree[node].parent or ""]
                behind[node] = {m: newest[m] - stamp for m, stamp in missed.items() if not is_statistics(m)}
        return behind

    def descend(
        self,
        state: CoordinatorState,
        round_number: int,
        changed: Mapping[str, Sequence[str]],
        away: Collection[str] = frozenset(),
    ) -> dict[str, tuple[str, ...]]:
        """Which new versions go down the tree after a round; notes the stamps of all new versions.

        Args:
            state: the coordinator's.
            round_number: the round.
            changed: aggregating node -> modules that it made a new version of.
            away: nodes that go on from what they have.

        Returns:
            Aggregating node, from the top down -> modules that it takes over from its parent.
        """
        adopted: dict[str, tuple[str, ...]] = {}
        for node in reversed(self._tree.aggregators):
            parent = self._tree[node].parent
            if parent is not None:
                missed = state.missed.pop(node, {})
                new = {*changed.get(parent, ()), *adopted.get(parent, ()), *missed}
                modules = self._modules[node].items()
                adopted[node] = tuple(m for m, begins in modules if m in new and begins <= round_number)
                if node in away and adopted[node]:
                    state.missed[node] = {m: state.stamps[node][m] for m in adopted[node]}
                    adopted[node] = ()
            if here := dict.fromkeys((*changed.get(node, ()), *adopted.get(node, ()))):
                stamps = state.stamps[node]
                state.previous[node] = state.previous.get(node, {}) | {module: stamps[module] for module in here}
                state.stamps[node] = stamps | dict.fromkeys(here, round_number)
        return adopted
