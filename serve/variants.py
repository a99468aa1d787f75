"""Variants of the model: the global one, a region's (`fog:<id>`), a device's own (`device:<id>`).

A variant has the modules of its node where there are any, else those of the next node above that has them, up to the
cloud. What no node has published is as it was at the start of the run, for a model needs all its parts; but a head, and
the encoder of an input, nobody there has trained are not served. Legend: `tier:id` names any node of any tree.
"""

from __future__ import annotations

from collections.abc import Iterable

from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.modules import modules_of_task
from fogtune.platform.topology import CLOUD, Tree
from fogtune.platform.wording import listed, quoted

from .registry import Entry, Version

GLOBAL = "global"


def node_of(tree: Tree, variant: str) -> str:
    """The node that a variant names. InputError if there is none."""
    if variant == GLOBAL:
        return CLOUD
    tier, _, node = variant.partition(":")
    if node in tree.nodes and tree[node].tier == tier != CLOUD:
        return node
    tiers = [tier for tier in tree.tiers if tier != CLOUD]
    allowed = ", ".join([GLOBAL, *(f"{tier}:ID of a {tier} node" for tier in tiers)])
    raise InputError("variant", f"{quoted(variant[:80])} is none; allowed: {allowed}")


def variants_of(tree: Tree, version: Version, task: str) -> tuple[str, ...]:
    """The variants with a head for a task: global first, then by tier downwards."""
    having: dict[str, bool] = {}
    for node in tree:  # parents before their children
        above = node.parent is not None and having[node.parent]
        having[node.id] = above or (node.id, f"head/{task}") in version.entries
    return tuple(_name(tree, node) for node, has in having.items() if has)


def resolve(
    config: Config, tree: Tree, version: Version, task: str, variant: str, inputs: Iterable[str]
) -> dict[str, Entry | None]:
    """The modules that answer for a variant, all of one version.

    Args:
        config: the run's.
        tree: of the configuration.
        version: which version.
        task: a task of the version.
        variant: as in a request.
        inputs: modalities that the sample has.

    Returns:
        Module -> its file; None where nobody on the way up has published it: as it was at the start.

    Raises:
        InputError: there is no such variant, or it has no head for the task or no encoder for an input.
    """
    path = tree.path_up(node_of(tree, variant))
    found: dict[str, Entry | None] = {}
    for module in modules_of_task(config, task, inputs):
        holders = [version.entries[node, module] for node in path if (node, module) in version.entries]
        if not holders and module.startswith(("head/", "encoder/")):
            with_it = [_name(tree, tree_node.id) for tree_node in tree if (tree_node.id, module) in version.entries]
            problem = f"{variant!r} has no {module} in v{version.number}; variants that have: {listed(with_it)}"
            raise InputError("variant", problem)
        found[module] = holders[0] if holders else None
    return found


def _name(tree: Tree, node: str) -> str:
    return GLOBAL if node == CLOUD else f"{tree[node].tier}:{node}"
