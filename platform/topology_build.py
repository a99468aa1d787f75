"""The tree that a configuration describes: by count, written out, or by position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .config import Config, CountedTopology, ListedTopology, PlacedTopology, Topology
from .config.base import Name
from .config.describe import shown
from .errors import InputError
from .topology import CLOUD, DEVICE, Node, Tree

Tiers = list[tuple[str, list[str]]]
"""Tiers between cloud and devices, from the top: name, ids of the nodes."""
Devices = list[tuple[str, str]]
"""(id, group) in the configuration's order."""

_NAME: TypeAdapter[str] = TypeAdapter(Name)


def build_tree(config: Config) -> Tree:
    """The tree of a configuration.

    Raises InputError for tier names that are reserved or given twice, node ids that are not unique, and a written-out
    tree that is not as deep as its tier names say or does not hold every device once.
    """
    topology = config.topology
    tiers = tier_names(topology)
    devices = [(f"{group.name}-{i}", group.name) for group in config.devices for i in range(group.count)]
    match topology:
        case CountedTopology():
            inner = _tier_ids(topology)
            nodes = _counted(inner, devices)
        case ListedTopology():
            inner, parents = _listed_nodes(topology)
            _check_listed_devices(parents, inner, devices)
            nodes = _listed(inner, parents, devices)
        case PlacedTopology():
            from .placement import place  # its generators bring torch along

            inner = _tier_ids(topology)
            nodes = place(topology, inner, devices, config.seed)
    _check_unique([CLOUD, *(node_id for _, ids in inner for node_id in ids), *(device for device, _ in devices)])
    if config.execution.placement == "labels":
        nodes = (replace(node, machine=_machine(node.id, config.execution.machines)) for node in nodes)
    return Tree({node.id: node for node in nodes}, tiers)


def _machine(node_id: str, machines: Mapping[str, Sequence[str]]) -> str:
    """The machine that is said to be the node; else one of its own."""
    named = (name for name, patterns in machines.items() if any(fnmatchcase(node_id, one) for one in patterns))
    return next(named, node_id)


def tier_names(topology: Topology) -> tuple[str, ...]:
    """All tiers from the top, the cloud and the devices included.

    Raises InputError for a name that is reserved or given twice.
    """
    listed = isinstance(topology, ListedTopology)
    names = topology.tier_names if isinstance(topology, ListedTopology) else [tier.name for tier in topology.tiers]
    for i, name in enumerate(names):
        where = f"topology.tier_names.{i}" if listed else f"topology.tiers.{i}.name"
        if name in (CLOUD, DEVICE):
            raise InputError(where, f"{name!r} is reserved; allowed: any name but {CLOUD}, {DEVICE}")
        if name in names[:i]:
            raise InputError(where, f"{name!r} is given twice; allowed: a name a tier")
    return (CLOUD, *names, DEVICE)


def _tier_ids(topology: CountedTopology | PlacedTopology) -> Tiers:
    return [(tier.name, [f"{tier.name}-{i}" for i in range(tier.count)]) for tier in topology.tiers]


def _counted(inner: Tiers, devices: Devices) -> Iterator[Node]:
    yield Node(CLOUD, CLOUD, None)
    above = [CLOUD]
    for tier, ids in inner:
        yield from (Node(node_id, tier, above[i % len(above)]) for i, node_id in enumerate(ids))
        above = ids
    yield from (Node(device, DEVICE, above[i % len(above)], group) for i, (device, group) in enumerate(devices))


def _listed(inner: Tiers, parents: dict[str, str], devices: Devices) -> Iterator[Node]:
    yield Node(CLOUD, CLOUD, None)
    for tier, ids in inner:
        yield from (Node(node_id, tier, parents[node_id]) for node_id in ids)
    yield from (Node(device, DEVICE, parents[device], group) for device, group in devices)


def _listed_nodes(topology: ListedTopology) -> tuple[Tiers, dict[str, str]]:
    """The tiers, and node or device -> parent, in the written order."""
    if not topology.tier_names:
        raise InputError("topology.tier_names", "[] given; allowed: a name a level of topology.tree, at least 1")
    inner: Tiers = []
    parents: dict[str, str] = {}
    level: list[tuple[str, str, Any]] = [("topology.tree", CLOUD, topology.tree)]
    for tier in topology.tier_names:
        below = [(f"{where}.{key}", parent, key, value) for where, parent, tree in level for key, value in tree.items()]
        lowest = tier == topology.tier_names[-1]
        for where, parent, key, value in below:
            _add(parents, where, key, parent)
            _check_level(where, value, tier, topology.tier_names)
        inner.append((tier, [key for _, _, key, _ in below]))
        level = [(where, key, value) for where, _, key, value in below]
        if lowest:
            for where, node_id, value in level:
                for i, device in enumerate(value):
                    _add(parents, f"{where}.{i}", device, node_id)
    return inner, parents


def _check_level(where: str, value: object, tier: str, tiers: tuple[str, ...]) -> None:
    lowest = tier == tiers[-1]
    if not isinstance(value, list if lowest else dict):
        allowed = "a list of devices" if lowest else f"a mapping of {tiers[tiers.index(tier) + 1]} nodes"
        names = ", ".join(tiers)
        raise InputError(where, f"{shown(value)} given; allowed: {allowed} (topology.tier_names: {names})")


def _add(parents: dict[str, str], where: str, name: object, parent: str) -> None:
    try:
        node_id = _NAME.validate_python(name)
    except ValidationError as error:
        problem = f"{name!r} is no name; allowed: letters, digits, '_', '.', '-', at most 64"
        raise InputError(where, problem) from error
    if node_id in parents or node_id == CLOUD:
        raise InputError(where, f"{node_id!r} is used twice; allowed: an id a node, not {CLOUD}")
    parents[node_id] = parent


def _check_listed_devices(parents: dict[str, str], inner: Tiers, devices: Devices) -> None:
    known = {device for device, _ in devices}
    nodes = {node_id for _, ids in inner for node_id in ids}
    for name in parents:
        if name not in known and name not in nodes:
            groups = ", ".join(sorted({group for _, group in devices}))
            raise InputError("topology.tree", f"device {name!r} is in no group; allowed: devices of {groups}")
    for device in sorted(known - set(parents)):
        raise InputError("topology.tree", f"device {device!r} does not stand in it; allowed: every device once")


def _check_unique(ids: Iterable[str]) -> None:
    for node_id, count in Counter(ids).items():
        if count > 1:
            raise InputError("topology", f"node id {node_id!r} is used twice; allowed: other names of tiers and groups")
