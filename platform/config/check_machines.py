"""Checks of where nodes run: on machines that there can be, each node on one."""

from __future__ import annotations

from fnmatch import fnmatchcase

from ..errors import InputError
from ..topology import Tree
from .root import Config


def labels_have_machines(config: Config) -> None:
    """Labels are those of a cluster's machines, which send over a network of their own."""
    execution = config.execution
    if execution.placement != "labels":
        return
    if execution.runner == "ray" and execution.address is None:
        problem = "labels given without execution.address; allowed: simulate, or the address of a cluster with labels"
        raise InputError("execution.placement", problem)
    if config.network is not None:
        problem = "labels given with a network to be modelled; allowed: simulate, or network: null"
        raise InputError("execution.placement", problem)


def machines_are_of_nodes(config: Config, tree: Tree) -> None:
    """What a machine is said to be exists, and is no other machine, too."""
    found: dict[str, str] = {}
    for name, patterns in config.execution.machines.items():
        for i, pattern in enumerate(patterns):
            where = f"execution.machines.{name}.{i}"
            matched = [node for node in tree.nodes if fnmatchcase(node, pattern)]
            if not matched:
                raise InputError(where, f"{pattern!r} is no node; allowed: ids of nodes, or patterns (watch-*)")
            for node in matched:
                if found.setdefault(node, name) != name:
                    problem = f"{node!r} is on machine {found[node]!r} already; allowed: each node on one machine"
                    raise InputError(where, problem)
