"""Versions and updates of many nodes on their way between actors, in as few objects as there are ends.

Versions: a node that took over the cloud's version of a module has no copy of its own. What is sent is a *part* a
maker's process, with the versions that were made there, and a *layout*, which says of every node where its modules'
versions lie. Updates: what goes to nodes of one actor goes as one *bundle*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fogtune.platform.aggregation import Tensors, Update

Part = Mapping[str, Mapping[str, Tensors]]
"""Node that made them -> module -> version."""
Layout = Mapping[str, tuple[tuple[int, str, tuple[str, ...]], ...]]
"""Node -> (index of the part, node that made them, modules) of all that it has."""
Bundle = Mapping[str, Update]
"""Node -> what is to be added up there."""


def assembled(layout: Layout, parts: Sequence[Part]) -> dict[str, Mapping[str, Tensors]]:
    """Node -> module -> its version; nodes that have the same share one mapping."""
    known: dict[tuple[tuple[int, str, tuple[str, ...]], ...], Mapping[str, Tensors]] = {}
    found = {}
    for node, pieces in layout.items():
        if pieces not in known:
            known[pieces] = {module: parts[i][maker][module] for i, maker, modules in pieces for module in modules}
        found[node] = known[pieces]
    return found
