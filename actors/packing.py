"""Packing: which devices share a host process. Has no influence on results, only on speed and memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fogtune.platform.topology import Tree


@dataclass(frozen=True)
class Packed:
    """A host process to be."""

    name: str
    """`device/<id>` for a single device, else `devices/<fog>/<k>`, with the fog nodes that it serves, or with its
    machine; `evaluator/<k>` for one that evaluates."""
    devices: tuple[str, ...]
    machine: str | None = None
    """On which it runs; None: wherever there is room."""


def pack(tree: Tree, hosts: int, machine: str | None = None) -> tuple[Packed, ...]:
    """Deal devices to at most `hosts` hosts of equal size, those of one fog node together as far as that goes.

    Within a fog node devices are dealt in turn, so that hosts which share it get the same mix of device groups. With a
    machine only its devices are dealt, and hosts of several are called by it: `devices/<machine>/<k>`.
    """
    parents = [node for node in tree.aggregators[::-1] if any(tree.is_device(c) for c in tree.children[node])]
    stride = max(1, math.ceil(hosts / len(parents)))
    ordered = []
    for parent in parents:
        children = [c for c in tree.children[parent] if tree.is_device(c) and machine in (None, tree[c].machine)]
        ordered += [child for start in range(stride) for child in children[start::stride]]
    count = min(hosts, len(ordered))
    bounds = [len(ordered) * i // count for i in range(count + 1)]
    chunks = [tuple(ordered[a:b]) for a, b in pairwise(bounds)]
    seen: Counter[str] = Counter()
    packed = []
    for devices in chunks:
        if len(devices) == 1:
            packed.append(Packed(f"device/{devices[0]}", devices, machine))
            continue
        label = machine or _label(tree, devices)
        packed.append(Packed(f"devices/{label}/{seen[label]}", devices, machine))
        seen[label] += 1
    return tuple(packed)


def actor_name(tree: Tree, node: str) -> str:
    """`<tier>/<id>`, without repeating the tier: node `fog-0` of tier `fog` is `fog/0`."""
    tier = tree[node].tier
    return f"{tier}/{node.removeprefix(tier + '-')}"


def _label(tree: Tree, devices: Sequence[str]) -> str:
    """The fog nodes of these devices: `0`, `0+1`, or `0..9` where they are many."""
    names: Mapping[str, None] = {actor_name(tree, tree[d].parent or "").partition("/")[2]: None for d in devices}
    listed = [name or "cloud" for name in names]
    return "+".join(listed) if len(listed) <= 3 else f"{listed[0]}..{listed[-1]}"
