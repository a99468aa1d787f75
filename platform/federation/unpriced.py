"""The ledger rows of a round without a network: what is moved, from whom to whom.

Nothing waits for anything then, and nothing is relayed, added up by heads or lost on the way; so there is no script of
the round (script.py) to be played, and what like devices move is written at once. The rows are the script's all the
same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from fogtune.platform.run.rows import LedgerRows, RowsWriter
from fogtune.platform.topology import Tree

from .messages import DeviceOrder
from .script import Moves
from .transfers import Sizes, hearing


def unpriced_rows(
    round_number: int,
    tree: Tree,
    sizes: Sizes,
    orders: Iterable[DeviceOrder],
    moves: Moves,
    first: Mapping[str, Sequence[str]],
) -> LedgerRows:
    """A row a module and receiver of a transfer.

    Args:
        round_number: the round.
        tree: of the federation.
        sizes: bytes of modules.
        orders: of all participants.
        moves: what nodes send.
        first: node -> modules that its parent gives it before anything else.
    """
    writer = RowsWriter(round_number)
    below: dict[str, list[DeviceOrder]] = {}
    for order in orders:
        below.setdefault(tree[order.device].parent or "", []).append(order)
    for node, modules in first.items():
        _backhaul(writer, tree[node].parent or "", node, modules, sizes.version)
    for parent, some in below.items():
        _download(writer, parent, some, sizes)
        for sent, senders in groupby((order.device for order in some), lambda device: moves.sent.get(device, ())):
            if sent:
                devices = list(senders)
                writer.add(
                    "uplink", devices, [parent] * len(devices), {module: sizes.update[module] for module in sent}
                )
    for node, modules in moves.upward.items():
        _backhaul(writer, node, tree[node].parent or "", modules, sizes.total)
    for node, modules in moves.adopted.items():
        _backhaul(writer, tree[node].parent or "", node, modules, sizes.change)
    return writer.rows()


def _download(writer: RowsWriter, parent: str, orders: Iterable[DeviceOrder], sizes: Sizes) -> None:
    """What a node gives its devices, a module after the other: whole, then as a change to those who can use it."""
    for module, groups in hearing(orders).items():
        for size, devices in zip((sizes.version, sizes.change), groups, strict=True):
            if devices:
                writer.add("downlink", [parent] * len(devices), devices, {module: size[module]})


def _backhaul(writer: RowsWriter, source: str, target: str, modules: Iterable[str], size: Mapping[str, int]) -> None:
    if amounts := {module: size[module] for module in modules}:
        writer.add("backhaul", (source,), (target,), amounts)
