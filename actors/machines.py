"""The machines of a Ray cluster, by the label that says which nodes of the federation they are.

A machine is labelled when it joins (`ray start --labels fogtune.io/node=fog-0`); where a node runs, the tree says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray

from fogtune.platform.errors import InputError, ProcessLost
from fogtune.platform.topology import Tree
from fogtune.platform.wording import listed

from .answers import get

LABEL = "fogtune.io/node"

LOOK_EVERY_S = 5.0
"""So often it is looked, while actors are waited for, whether their machines are there still."""

_MEMORY = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=17179869184"
"""How an actor's process handles memory: in large pages, and what is freed is kept for the next batch or round, which
need as much as the last ones. To return it to the system and to get it back takes a tenth of training's time, and half
of a round's whose modules are large."""


def on(machine: str | None) -> dict[str, Any]:
    """Options of an actor that runs on a machine; None: wherever there is room."""
    where = {} if machine is None else {"label_selector": {LABEL: machine}}
    return {"runtime_env": {"env_vars": {"GLIBC_TUNABLES": _MEMORY}}, **where}


def processors() -> dict[str | None, int]:
    """Machine that is up -> its processors; None: all that the cluster has."""
    there = {machine: int(count) for machine, count in _there("CPU").items()}
    return there | {None: max(1, there[None])}


def gpus() -> dict[str | None, float]:
    """The same of GPUs."""
    return _there("GPU")


def _there(resource: str) -> dict[str | None, float]:
    up = {n["Labels"].get(LABEL): n["Resources"].get(resource, 0.0) for n in ray.nodes() if n["Alive"]}  # type: ignore[no-untyped-call]
    return up | {None: ray.cluster_resources().get(resource, 0.0)}  # type: ignore[no-untyped-call]


def get_from(actors: Mapping[str, str | None], refs: Any, round_number: int) -> Any:
    """`answers.get`, but from actors whose machine may go: Ray would wait until it is back.

    Args:
        actors: of which some were asked -> the machine of each.
        refs: what to wait for: one reference or a list of them.
        round_number: the round under way, for errors; 0 before the first.

    Raises:
        FogTuneError: as there.
        ProcessLost: one of the machines is not there.
    """
    waiting = refs if isinstance(refs, list) else [refs]
    while waiting and any(actors.values()):
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=LOOK_EVERY_S)
        if not waiting:
            break
        up = processors()
        for name, machine in actors.items():
            if machine not in up:
                raise ProcessLost(round_number, f"{name} waits for machine {machine}")
    return get(refs, round_number)


def require(tree: Tree) -> None:
    """InputError if the machine of a node is not in the cluster, or is there twice."""
    labels = [node["Labels"].get(LABEL) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    there = Counter(label for label in labels if label)
    nodes: dict[str, list[str]] = {}
    for node in tree:
        if node.machine is not None:
            nodes.setdefault(node.machine, []).append(node.id)
    for machine, ids in nodes.items():
        if there[machine] != 1:
            count = "two machines are" if there[machine] else "no machine of the cluster is"
            problem = f"{count} labelled {LABEL}={machine}, for {listed(ids)}; labels there: {listed(sorted(there))}"
            raise InputError("execution.placement", problem)
