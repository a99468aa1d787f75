"""The script of a round: which transfers and computations it is made of, and what each waits for.

    parent (-> access point) -> downlink, module by module -> training -> uplink (-> access point) -> parent
    all updates of a node's children -> its sums go up -> the cloud -> new versions come down

The same script is played before a round, to decide from what it would take, and booked after it, with what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fogtune.platform.network.actions import Script
from fogtune.platform.topology import Tree

from .cooperation import Cooperation
from .messages import DeviceOrder
from .transfers import Retries, Sizes, Transfers


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
    beginning: Sequence[DeviceOrder] = ()
    """Of devices that only get what they start from."""


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
            orders: of all whose training and updates belong to the round.
            moves: what is sent. A participant that is not in `moves.sent` is not waited for.
            first: node, from the top down -> modules that its parent gives it before anything else.
            flops: device -> operations of its training; empty where computations are not booked.
            retries: of transfers by radio; null if all come through at once.
        """
        beginning = {order.device for order in moves.beginning}
        part = Transfers(self._tree, self._sizes, retries)
        for node, modules in first.items():
            part.give(self._tree[node].parent or "", node, modules)
        cells: dict[str, tuple[list[DeviceOrder], list[DeviceOrder]]] = {}
        for order in (*orders, *moves.beginning):
            listening, some = cells.setdefault(self._access[order.device], ([], []))
            if order.begun is None:
                listening.append(order)
            if order.device not in beginning:
                some.append(order)
        for access, (listening, some) in cells.items():
            if listening:
                part.download(access, listening)
            part.train(some, flops)
            part.cooperate(some, moves.cooperation)
            part.upload(access, some, moves.sent)
        for node, modules in moves.upward.items():
            part.go_up(node, modules)
        for node, modules in moves.adopted.items():
            part.come_down(node, modules)
        for node in (*self._tree.aggregators, *(order.device for order in orders), *beginning):
            part.script.reached[node] = (*part.begin.get(node, ()), *part.arrived.get(node, ()))
        return part.script
