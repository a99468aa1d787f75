"""The transfers and computations of a round, written one after the other with what each waits for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import NamedTuple

from fogtune.platform.network.actions import Action, Script
from fogtune.platform.run.record import Kind
from fogtune.platform.topology import Tree

from .cooperation import Cooperation
from .messages import DeviceOrder


@dataclass(frozen=True)
class Sizes:
    """Bytes of every module as serialised."""

    version: Mapping[str, int]
    """Of its tensors."""
    update: Mapping[str, int]
    """Of what one device sends."""
    total: Mapping[str, int]
    """Of a sum of several devices' updates."""
    change: Mapping[str, int]
    """Of a new version for those who have the one before."""
    adds_up: bool = True
    """Whether heads send a sum; else they pass on every update."""

    def of(self, module: str, contributors: int) -> int:
        """Of what is sent upward for some devices."""
        if contributors > 1 and self.adds_up:
            return self.total[module]
        return contributors * self.update[module]


Tries = Callable[[Action], int]
"""At which attempt a transfer over a radio link comes through, from 1."""


@dataclass(frozen=True)
class Retries:
    """How transfers over radio links are repeated."""

    tries: Tries
    attempts: int
    """After so many in vain an update is given up; a download is repeated until it comes through."""


class Moved(NamedTuple):
    """What became of a transfer; actions are named by their indices in the script."""

    last: tuple[int, ...]
    """The last attempt; what the transfer waited for, if nothing was to be moved."""
    arrives: bool = True


class Transfers:
    """The script of a round as it is being written."""

    def __init__(self, tree: Tree, sizes: Sizes, retries: Retries | None) -> None:
        self.script = Script()
        self.begin: dict[str, tuple[int, ...]] = {}
        """Node -> what its part of the round waits for; of a device as far as it has been written."""
        self.arrived: dict[str, list[int]] = {}
        """Aggregating node -> what reaches it from below, and from above at the end."""
        self._tree = tree
        self._sizes = sizes
        self._retries = retries
        self._amounts: dict[tuple[int, tuple[str, ...]], dict[str, int]] = {}
        """(Which of the sizes, modules) -> bytes of each: what like devices move is one value."""

    def move(
        self,
        kind: Kind,
        ends: tuple[str, str | tuple[str, ...]],
        modules: Mapping[str, int],
        after: tuple[int, ...],
        home: str,
        hops: int = 1,
        give_up: bool = False,
        origin: str = "",
        update_of: DeviceOrder | None = None,
    ) -> Moved:
        """A transfer of modules (-> bytes) from one end to the other, after its lost attempts: as many as allowed, or
        as it takes. A device's update may be late, or under way since an earlier round."""
        if not modules:
            return Moved(after)
        source, targets = ends[0], (ends[1],) if isinstance(ends[1], str) else ends[1]
        action = Action(kind, source, targets, modules, home, after, hops=hops, origin=origin)
        if update_of is not None:
            action = _of_update(action, update_of)
        if self._retries is None or kind == "backhaul":
            return Moved((self.script.add(action),))
        tries = self._retries.tries(action)
        given_up = give_up and tries > self._retries.attempts
        tries = self._retries.attempts if given_up else tries
        for attempt in range(1, tries + 1):
            lost = given_up or attempt < tries
            after = (self.script.add(action._replace(after=after, lost=lost or action.lost)),)
        return Moved(after, not given_up)

    def give(self, parent: str, node: str, modules: Collection[str]) -> None:
        """A node gets whole modules from its parent before anything else."""
        amounts = self._amounts_of(modules, self._sizes.version)
        self.begin[node] = self.move("backhaul", (parent, node), amounts, self.begin.get(parent, ()), parent).last

    def download(self, access: str, orders: Sequence[DeviceOrder]) -> None:
        """What the access node broadcasts, a module after the other, each once for all who listen; then what devices
        get over others, first changes of versions that they have, then whole versions."""
        parent = self._parent(orders[0].device)
        needed = dict.fromkeys(module for order in orders for module in order.fetched)
        last = self.begin.get(parent, ())
        self.begin |= {order.device: last for order in orders}
        if access != parent:
            sent = [(m, o) for o in orders for m in o.fetched if m not in o.sources or o.sources[m][-1] == access]
            whole = {module for module, order in sent if module not in order.changes}
            amounts = {m: self._sizes.version[m] if m in whole else self._sizes.change[m] for m, _ in sent}
            last = self.move("backhaul", (parent, access), amounts, last, parent).last
        has: dict[tuple[str, str], tuple[int, ...]] = {}
        for module, groups in hearing(orders).items():
            for size, receivers in zip((self._sizes.version, self._sizes.change), groups, strict=True):
                if receivers:
                    amounts = self._amounts_of((module,), size)
                    last = self.move("downlink", (access, tuple(receivers)), amounts, last, parent).last
                    self.begin |= dict.fromkeys(receivers, last)
                    has |= {(receiver, module): last for receiver in receivers}
        if not any(order.sources for order in orders):
            return
        for size, changes in ((self._sizes.change, True), (self._sizes.version, False)):
            alike: dict[frozenset[tuple[str, tuple[str, ...]]], list[str]] = {}
            for module in needed:
                some = [order for order in orders if module in order.sources and (module in order.changes) == changes]
                alike.setdefault(frozenset((o.device, o.sources[module]) for o in some), []).append(module)
            for ways, modules in alike.items():
                self._hand_on(access, dict(sorted(ways)), modules, size, last, has)

    def _hand_on(
        self,
        access: str,
        sources: Mapping[str, tuple[str, ...]],
        modules: Sequence[str],
        size: Mapping[str, int],
        free: tuple[int, ...],
        has: dict[tuple[str, str], tuple[int, ...]],
    ) -> None:
        """Modules from device to device, where the same come the same ways. A device sends once to all that it serves.

        Args:
            access: the access node.
            sources: device -> nodes over which the modules come.
            modules: those modules.
            size: of each.
            free: when the access node has done its broadcasts.
            has: (device, module) -> when it has it; those who get it now are added.
        """
        served: dict[tuple[str, ...], list[str]] = {}
        amounts = self._amounts_of(modules, size)
        for device, source in sources.items():
            served.setdefault(source[::-1], []).append(device)
        while served:
            chain = next(way for way in served if way[0] not in sources or (way[0], modules[0]) in has)
            targets = served.pop(chain)
            parent = self._parent(targets[0])
            held = {i for m in modules for i in has.get((chain[0], m), self.begin.get(parent, ()))}
            after = free if chain[0] == access else tuple(sorted(held))
            for sender, receiver in zip_longest(chain, chain[1:], fillvalue=tuple(targets)):
                kind: Kind = "downlink" if sender == access else "d2d"
                ends = (str(sender), receiver)
                origin = f"{targets[0]} {modules[0]}"
                after = self.move(kind, ends, amounts, after, parent, hops=len(chain), origin=origin).last
            for target in targets:
                has |= {(target, module): after for module in modules}
                self.begin[target] += after

    def train(self, orders: Sequence[DeviceOrder], flops: Mapping[str, float]) -> None:
        """Local training, as soon as a device has its modules."""
        for order in orders:
            device = order.device
            if device in flops:
                home, after = self._home(order), self.begin.get(device, ())
                action = Action("compute", device, (device,), {}, home, after, flops[device])
                self.begin[device] = (self.script.add(_of_update(action, order)),)

    def cooperate(self, orders: Sequence[DeviceOrder], found: Cooperation) -> None:
        """Steps of consensus: in each, everyone sends to all of its neighbours at once what they average."""
        taking_part = [order.device for order in orders if order.device in found.shared]
        for step in range(found.steps):
            heard: dict[str, tuple[int, ...]] = {device: self.begin[device] for device in taking_part}
            for device in taking_part:
                shared = found.shared[device]
                targets = tuple(sorted({other for others in shared.values() for other in others}))
                ends, begin = (device, targets), self.begin[device]
                amounts = self._amounts_of(shared, self._sizes.version)
                sent = self.move("d2d", ends, amounts, begin, self._parent(device), origin=f"{device} {step}")
                heard |= {target: (*heard[target], *sent.last) for target in targets}
            self.begin |= heard

    def upload(self, access: str, orders: Sequence[DeviceOrder], sent: Mapping[str, Collection[str]]) -> None:
        """Updates on their ways: first those that a head adds to its own."""
        gathered = {order.head: Counter(sent.get(order.head, ())) for order in orders if order.head is not None}
        members: dict[str, list[str]] = {}
        for order in sorted(orders, key=lambda order: order.head in (None, order.device)):
            device, parent = order.device, self._parent(order.device)
            if device not in sent:
                continue
            if device in gathered:
                modules = {m: self._sizes.of(m, n) for m, n in gathered[device].items()}
            else:
                modules = self._amounts_of(sent[device], self._sizes.update)
            if not modules:
                continue
            head = None if order.head == device else order.head
            moved = Moved(self.begin.get(device, ()))
            way = (device, *order.relays, head or access)
            for source, target in pairwise(way):
                kind: Kind = "uplink" if target == access else "d2d"
                if moved.arrives:
                    hops, ends = len(way) - 1, (source, target)
                    moved = self.move(kind, ends, modules, moved.last, self._home(order), hops, True, device, order)
                    if not moved.arrives:
                        self.script.lost |= dict.fromkeys((device, *members.get(device, ())), f"{source} to {target}")
            if head and moved.arrives:
                gathered[head].update(modules.keys())
                members.setdefault(head, []).append(device)
            self.begin[device] = moved.last
            if head:
                self.begin[head] += moved.last
                continue
            if access != parent and moved.arrives:
                home = self._home(order)
                moved = self.move("backhaul", (access, parent), modules, moved.last, home, update_of=order)
            self.script.delivered |= dict.fromkeys((device, *members.get(device, ())), moved.last[0])
            if order.until_s == math.inf:
                self.arrived.setdefault(parent, []).extend(moved.last)

    def go_up(self, node: str, modules: Collection[str]) -> None:
        """A node's sums, once all that its children send is there."""
        parent = self._parent(node)
        if modules:
            amounts = self._amounts_of(modules, self._sizes.total)
            moved = self.move("backhaul", (node, parent), amounts, tuple(self.arrived.get(node, ())), node)
            self.arrived.setdefault(parent, []).extend(moved.last)

    def come_down(self, node: str, modules: Collection[str]) -> None:
        """New versions, once the node above has them."""
        parent = self._parent(node)
        if modules:
            amounts = self._amounts_of(modules, self._sizes.change)
            moved = self.move("backhaul", (parent, node), amounts, tuple(self.arrived.get(parent, ())), parent)
            self.arrived.setdefault(node, []).extend(moved.last)

    def _amounts_of(self, modules: Collection[str], size: Mapping[str, int]) -> dict[str, int]:
        """Module -> bytes, by one of `self._sizes`."""
        key = id(size), tuple(modules)
        if key not in self._amounts:
            self._amounts[key] = {module: size[module] for module in modules}
        return self._amounts[key]

    def _parent(self, node: str) -> str:
        return self._tree[node].parent or ""

    def _home(self, order: DeviceOrder) -> str:
        """Who must be ready for the round before a device goes on: not its node, if it is under way already."""
        return self._parent(order.device) if order.begun is None else order.device


def hearing(orders: Iterable[DeviceOrder]) -> dict[str, tuple[list[str], list[str]]]:
    """Module -> devices that hear the whole of it from their access node, and those that hear how it has changed."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for order in orders:
        for module in order.fetched:
            groups = found.setdefault(module, ([], []))
            if module not in order.sources:
                groups[module in order.changes].append(order.device)
    return found


def _of_update(action: Action, order: DeviceOrder) -> Action:
    """An action for a device's update, which may be late, or under way since an earlier round."""
    if order.until_s == math.inf and order.begun is None:
        return action
    return action._replace(lost=order.until_s < math.inf, until_s=order.until_s, begun=order.begun)
