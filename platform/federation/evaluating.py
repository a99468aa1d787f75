"""Who evaluates what: which models stand for a task, and its held-out rows spread over hosts in chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fogtune.platform.config import Config
from fogtune.platform.modules import modules_of_task
from fogtune.platform.ownership import Kind, Ownership
from fogtune.platform.topology import DEVICE, Tree

from .messages import EvaluationJob, Setup


def variants(config: Config, tree: Tree, ownership: Ownership, task: str, round_number: int) -> tuple[str, ...]:
    """Nodes whose models are the task's global models: those of the lowest scope on the task's path, with devices below
    that execute it in this round."""
    lowest = max(
        (tree.tiers.index(ownership.scope(m)) for m in modules_of_task(config, task, config.tasks[task].inputs)),
        default=0,
    )
    executing = {group for group, kind in ownership.kinds.items() if _begins(kind, task) <= round_number}
    if tree.tiers[lowest] == DEVICE:
        return tuple(device for device in tree.devices if tree[device].group in executing)
    below = tree.groups_below
    return tuple(node for node in tree.of_tier[tree.tiers[lowest]] if not executing.isdisjoint(below[node]))


def _begins(kind: Kind, task: str) -> float:
    """Round from which devices of a kind execute a task; infinite if they do not."""
    return kind.begins.get(f"head/{task}", math.inf)


def evaluation_jobs(
    config: Config,
    tree: Tree,
    ownership: Ownership,
    setup: Setup,
    hosts: Mapping[str, Sequence[str]],
    round_number: int,
) -> dict[str, tuple[EvaluationJob, ...]]:
    """Spread the held-out chunks of all tasks over hosts.

    Args:
        config: the run's configuration.
        tree: of the configuration.
        ownership: of the configuration on its tree.
        setup: knows how many rows are held out.
        hosts: those that evaluate -> their devices, if any.
        round_number: the round.

    Returns:
        Host -> its jobs. The variant of a device goes whole to its host, if that is among them; other chunks are dealt
        in turn, always the same chunk to the same host, so that its prefixes are found there.
    """
    names = list(hosts)
    home: dict[str, str] = {}
    jobs: dict[str, list[EvaluationJob]] = {host: [] for host in names}
    for task in config.tasks:
        chunks = range(-(-setup.held_out[task] // config.evaluation.batch_size))
        for variant in variants(config, tree, ownership, task, round_number):
            if tree.is_device(variant):
                home = home or {device: host for host, devices in hosts.items() for device in devices}
                if variant in home:
                    jobs[home[variant]].append(EvaluationJob(task, variant, tuple(chunks)))
                    continue
            for i, host in enumerate(names):
                mine = tuple(chunks[i :: len(names)])
                if mine:
                    jobs[host].append(EvaluationJob(task, variant, mine))
    # Jobs of one variant together: its modules are loaded once.
    return {host: tuple(sorted(some, key=lambda job: job.variant)) for host, some in jobs.items()}
