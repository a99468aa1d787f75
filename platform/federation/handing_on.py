"""Modules that devices get from each other: what the one gives, and what the other makes sure of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from fogtune.platform.aggregation import Tensors
from fogtune.platform.errors import FogTuneError
from fogtune.platform.topology import Tree

from .messages import DeviceOrder, RoundPlan

Copies = Mapping[tuple[str, str], Tensors]
"""(device that has it, module) -> its copy."""


Holders = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Aggregating node -> module -> devices below the node from which others get the module in a round."""


@dataclass(frozen=True)
class HandedOn:
    """What devices give each other in a round."""

    copies: Copies = field(default_factory=dict)
    digests: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(aggregating node, module) -> sha256 of its version, which devices learn from the node itself."""
    _found: dict[tuple[str, str], str] = field(default_factory=dict, init=False, repr=False, compare=False)
    """(device that has it, module) -> sha256 of its copy, as computed in this process."""

    def __reduce__(self) -> tuple[type[HandedOn], tuple[object, ...]]:
        # What was found stays behind: every host makes sure for itself.
        return HandedOn, (self.copies, self.digests)

    def found(self, holder: str, module: str) -> str:
        """sha256 of a device's copy, computed once for all who get it."""
        key = holder, module
        if key not in self._found:
            self._found[key] = digest(self.copies[key])
        return self._found[key]


NOTHING = HandedOn()
"""Of a round in which no device gets anything from another."""


class CopyRefused(FogTuneError):
    """A copy of a module that another device handed on is not what it should be."""


def digest(tensors: Tensors) -> str:
    """sha256 over names, shapes and values, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def digests(node: str, versions: Mapping[str, Tensors], modules: Iterable[str]) -> dict[tuple[str, str], str]:
    """Of some of a node's versions."""
    return {(node, module): digest(versions[module]) for module in modules}


def holders_of(plan: RoundPlan, tree: Tree) -> dict[str, dict[str, tuple[str, ...]]]:
    """Who hands on what by a plan."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for order in plan.orders:
        for module, source in order.sources.items():
            if tree.is_device(source[-1]):
                of_node = found.setdefault(tree[order.device].parent or "", {})
                of_node[module] = tuple(dict.fromkeys((*of_node.get(module, ()), source[-1])))
    return found


def received(order: DeviceOrder, tree: Tree, versions: Mapping[str, Tensors], handed: HandedOn) -> dict[str, Tensors]:
    """What a device starts from: its parent's versions, of which some are other devices' copies.

    Args:
        order: the device's.
        tree: of the federation.
        versions: module -> the parent's version.
        handed: what devices give each other.

    Raises:
        CopyRefused: a copy has not come, or is not the parent's version.
    """
    found, parent = dict(versions), tree[order.device].parent or ""
    for module, source in order.sources.items():
        holder = source[-1]
        if not tree.is_device(holder):  # the access node, over relays
            continue
        if (holder, module) not in handed.copies:
            raise CopyRefused(f"{module} has not come from {holder}")
        found[module] = handed.copies[holder, module]
        if handed.found(holder, module) != handed.digests[parent, module]:
            raise CopyRefused(f"{module} as {holder} has it is not the version of {parent}: its sha256 differs")
    return found
