"""The script of a round: which transfers and computations it is made of, and what each waits for.

    parent (-> access point) -> downlink, module by module -> training -> uplink (-> access point) -> parent
    all updates of a node's children -> its sums go up -> the cloud -> new versions come down

The same script is played before a round, to decide from what it would take, and booked after it, with what was sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

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


@dataclass(frozen=True)
class Moves:
    """What nodes send each other in a round."""

    sent: Mapping[str, Sequence[str]]
    """Device -> modules that it sends; those that failed are left out."""
    upward: Mapping[str, Sequence[str]]
    """Aggregating node, from the bottom up -> modules whose sums it sends to its parent."""
    adopted: Mapping[str, Sequence[str]]
    """Aggregating node, from the top down -> modules that it takes over from its parent."""
    cooperation: Cooperation = field(default_factory=Cooperation)
    """What neighbours average before."""


Tries = Callable[[Action], int]
"""At which attempt a transfer over a radio link comes through, from 1."""


@dataclass(frozen=True)
class Retries:
    """How transfers over radio links are repeated."""

    tries: Tries
    attempts: int
    """After so many in vain an update is given up; a download is repeated until it comes through."""


class ScriptWriter:
    """Writes the scripts of a federation's rounds."""

    def __init__(self, tree: Tree, access: Mapping[str, str], sizes: Sizes) -> None:
        """`access` is device -> node whose radio it uses; its parent, unless that has no radio."""
        self._tree = tree
        self._access = access
        self._sizes = sizes

    def write(
        self,
        orders: Sequence[DeviceOrder],
        moves: Moves,
        first: Mapping[str, Sequence[str]],
        flops: Mapping[str, float],
        retries: Retries | None,
    ) -> Script:
        """The script of a round.

        Args:
            orders: of all participants.
            moves: what is sent. A participant that is not in `moves.sent` is not waited for.
            first: node, from the top down -> modules that its parent gives it before anything else.
            flops: device -> operations of its training; empty where computations are not booked.
            retries: of transfers by radio; null if all come through at once.
        """
        part = _Part(self._tree, self._sizes, retries)
        for node, modules in first.items():
            parent = self._tree[node].parent or ""
            part.begin[node] = part.move("backhaul", (parent, node), modules, part.begin.get(parent, ()), parent).last
        cells: dict[str, list[DeviceOrder]] = {}
        for order in orders:
            cells.setdefault(self._access[order.device], []).append(order)
        for access, some in cells.items():
            part.download(access, some)
            part.train(some, flops)
            part.cooperate(some, moves.cooperation)
            part.upload(access, some, moves.sent)
        for node, modules in moves.upward.items():
            part.go_up(node, modules)
        for node, modules in moves.adopted.items():
            part.come_down(node, modules)
        for node in (*self._tree.aggregators, *(order.device for order in orders)):
            part.script.reached[node] = (*part.begin.get(node, ()), *part.arrived.get(node, ()))
        return part.script


@dataclass(frozen=True)
class _Moved:
    last: tuple[int, ...]
    """The last attempt; what the transfer waited for, if nothing was to be moved."""
    arrives: bool = True


class _Part:
    """A script as it is being written."""

    def __init__(self, tree: Tree, sizes: Sizes, retries: Retries | None) -> None:
        self.script = Script()
        self.begin: dict[str, tuple[int, ...]] = {}
        """Node -> what its part of the round waits for; of a device as far as it has been written."""
        self.arrived: dict[str, tuple[int, ...]] = {}
        """Aggregating node -> what reaches it from below, and from above at the end."""
        self._tree = tree
        self._sizes = sizes
        self._retries = retries

    def move(
        self,
        kind: Kind,
        ends: tuple[str, str | tuple[str, ...]],
        modules: Collection[str],
        after: tuple[int, ...],
        home: str,
        size: Mapping[str, int] | None = None,
        hops: int = 1,
        give_up: bool = False,
        origin: str = "",
    ) -> _Moved:
        """A transfer from one end to the other, after its lost attempts: as many as allowed, or as it takes."""
        if not modules:
            return _Moved(after)
        source, targets = ends[0], (ends[1],) if isinstance(ends[1], str) else ends[1]
        moved = {module: (size or self._sizes.version)[module] for module in modules}
        action = Action(kind, source, targets, moved, home, after, hops=hops, origin=origin)
        tries, given_up = 1, False
        if self._retries and kind != "backhaul":
            tries = self._retries.tries(action)
            given_up = give_up and tries > self._retries.attempts
            tries = self._retries.attempts if given_up else tries
        for attempt in range(1, tries + 1):
            lost = given_up or attempt < tries
            after = (self.script.add(replace(action, after=after, lost=lost)),)
        return _Moved(after, not given_up)

    def download(self, access: str, orders: Sequence[DeviceOrder]) -> None:
        """A module after the other, each once for all who hear the access node; then those that other devices bring."""
        parent = self._parent(orders[0].device)
        needed = dict.fromkeys(module for order in orders for module in order.fetched)
        last = self.begin.get(parent, ())
        self.begin |= {order.device: last for order in orders}
        if access != parent:
            whole = {module for order in orders for module in order.fetched if module not in order.changes}
            last = self.move("backhaul", (parent, access), needed, last, parent, self._down_size(whole)).last
        hearing: dict[str, tuple[list[str], list[str]]] = {module: ([], []) for module in needed}
        for order in orders:
            for module in () if order.down else order.fetched:
                hearing[module][module in order.changes].append(order.device)
        for module, groups in hearing.items():
            for size, receivers in zip((self._sizes.version, self._sizes.change), groups, strict=True):
                if receivers:
                    last = self.move("downlink", (access, tuple(receivers)), (module,), last, parent, size).last
                    self.begin |= dict.fromkeys(receivers, last)
        for order in orders:
            if order.down:
                way = (access, *reversed(order.down), order.device)
                size = self._down_size(set(order.fetched) - set(order.changes))
                for i, ends in enumerate(pairwise(way)):
                    kind: Kind = "d2d" if i else "downlink"
                    moved = self.move(
                        kind, ends, order.fetched, last, parent, size, hops=len(way) - 1, origin=order.device
                    )
                    last = moved.last
                self.begin[order.device] = last

    def _down_size(self, whole: Collection[str]) -> dict[str, int]:
        """Bytes of modules on their way down, of which those in `whole` are versions and the others changes."""
        return {m: size if m in whole else self._sizes.change[m] for m, size in self._sizes.version.items()}

    def train(self, orders: Sequence[DeviceOrder], flops: Mapping[str, float]) -> None:
        """Local training, as soon as a device has its modules."""
        for order in orders:
            device = order.device
            if device in flops:
                home, after = self._parent(device), self.begin[device]
                action = Action("compute", device, (device,), {}, home, after, flops[device])
                self.begin[device] = (self.script.add(action),)

    def cooperate(self, orders: Sequence[DeviceOrder], found: Cooperation) -> None:
        """Steps of consensus: in each, everyone sends to all of its neighbours at once what they average."""
        taking_part = [order.device for order in orders if order.device in found.shared]
        for step in range(found.steps):
            heard: dict[str, tuple[int, ...]] = {device: self.begin[device] for device in taking_part}
            for device in taking_part:
                shared = found.shared[device]
                targets = tuple(sorted({other for others in shared.values() for other in others}))
                ends, begin = (device, targets), self.begin[device]
                sent = self.move("d2d", ends, shared, begin, self._parent(device), origin=f"{device} {step}")
                heard |= {target: (*heard[target], *sent.last) for target in targets}
            self.begin |= heard

    def upload(self, access: str, orders: Sequence[DeviceOrder], sent: Mapping[str, Collection[str]]) -> None:
        """Updates on their ways: first those that a head adds to its own."""
        gathered = {order.device: Counter(sent.get(order.device, ())) for order in orders}
        members: dict[str, list[str]] = {}
        for order in sorted(orders, key=lambda order: order.head in (None, order.device)):
            device, parent, modules = order.device, self._parent(order.device), gathered[order.device]
            if device not in sent or not modules:
                continue
            head = None if order.head == device else order.head
            size = {m: self._sizes.of(m, n) for m, n in modules.items()}
            moved = _Moved(self.begin[device])
            way = (device, *order.relays, head or access)
            for source, target in pairwise(way):
                kind: Kind = "uplink" if target == access else "d2d"
                if moved.arrives:
                    hops, ends = len(way) - 1, (source, target)
                    moved = self.move(kind, ends, modules, moved.last, parent, size, hops, give_up=True, origin=device)
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
                moved = self.move("backhaul", (access, parent), modules, moved.last, parent, size)
            self.script.delivered |= dict.fromkeys((device, *members.get(device, ())), moved.last[0])
            self.arrived[parent] = (*self.arrived.get(parent, ()), *moved.last)

    def go_up(self, node: str, modules: Collection[str]) -> None:
        """A node's sums, once all that its children send is there."""
        parent = self._parent(node)
        if modules:
            moved = self.move("backhaul", (node, parent), modules, self.arrived.get(node, ()), node, self._sizes.total)
            self.arrived[parent] = (*self.arrived.get(parent, ()), *moved.last)

    def come_down(self, node: str, modules: Collection[str]) -> None:
        """New versions, once the node above has them."""
        parent = self._parent(node)
        if modules:
            after = self.arrived.get(parent, ())
            moved = self.move("backhaul", (parent, node), modules, after, parent, self._sizes.change)
            self.arrived[node] = (*self.arrived.get(node, ()), *moved.last)

    def _parent(self, node: str) -> str:
        return self._tree[node].parent or ""
