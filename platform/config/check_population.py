"""Checks of who takes part: groups, tasks and sources name each other rightly, and every node has something below."""

from __future__ import annotations

from ..errors import InputError
from ..ownership import task_begins
from ..topology import DEVICE, Tree
from .describe import listed
from .root import Config
from .topology import CountedTopology, ListedTopology


def group_names_are_unique(config: Config) -> None:
    """Device ids start with the group's name."""
    names = [group.name for group in config.devices]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InputError(f"devices.{i}.name", f"{name!r} is given twice; allowed: a name of its own a group")


def somebody_begins(config: Config) -> None:
    """Who joins after the end never takes part; a federation that has nobody at first has nothing to do."""
    rounds = {f"devices.{i}.joins": group.joins for i, group in enumerate(config.devices)}
    rounds |= {f"tasks.{name}.begins": task.begins for name, task in config.tasks.items()}
    for where, number in rounds.items():
        if number > config.rounds:
            raise InputError(where, f"{number} given; allowed: 1 to {config.rounds}, the number of rounds")
    if all(task_begins(config, group, task) > 1 for group in config.devices for task in group.tasks):
        problem = "no device executes a task in round 1: devices.N.joins or tasks.NAME.begins of all are above 1"
        raise InputError("devices", f"{problem}; allowed: 1, for one group and a task of it")


def nothing_is_named_twice(config: Config) -> None:
    """Lists of modalities and tasks are sets in a chosen order."""
    lists = {f"devices.{i}.modalities": group.modalities for i, group in enumerate(config.devices)}
    lists |= {f"devices.{i}.tasks": group.tasks for i, group in enumerate(config.devices)}
    lists |= {f"tasks.{name}.inputs": task.inputs for name, task in config.tasks.items()}
    for where, names in lists.items():
        for i, name in enumerate(names):
            if name in names[:i]:
                raise InputError(f"{where}.{i}", f"{name!r} is given twice; allowed: each name once")


def tasks_exist(config: Config) -> None:
    """A group executes only tasks that are defined."""
    for i, group in enumerate(config.devices):
        for j, task in enumerate(group.tasks):
            if task not in config.tasks:
                raise InputError(
                    f"devices.{i}.tasks.{j}", f"{task!r} is no task; allowed: {listed(list(config.tasks))}"
                )


def sources_exist(config: Config) -> None:
    """A task learns from a source that is defined."""
    for name, task in config.tasks.items():
        if task.source not in config.sources:
            problem = f"{task.source!r} is no source; allowed: {listed(list(config.sources))}"
            raise InputError(f"tasks.{name}.source", problem)


def tasks_are_executed(config: Config) -> None:
    """Nobody would train the head of a task that no group executes."""
    executed = {task for group in config.devices for task in group.tasks}
    for name in config.tasks:
        if name not in executed:
            raise InputError(f"tasks.{name}", f"no device group executes {name!r}; name it in devices.N.tasks")


def sources_are_used(config: Config) -> None:
    """A source without a task has nobody to be split among."""
    used = list(dict.fromkeys(task.source for task in config.tasks.values()))
    for name in config.sources:
        if name not in used:
            raise InputError(f"sources.{name}", f"no task uses {name!r}; allowed: sources of tasks, {listed(used)}")


def tasks_suit_groups(config: Config) -> None:
    """A device needs at least one of a task's inputs."""
    for i, group in enumerate(config.devices):
        for j, task in enumerate(group.tasks):
            inputs = config.tasks[task].inputs
            if not set(inputs) & set(group.modalities):
                problem = (
                    f"{task!r} reads {listed(inputs)}, but {group.name!r} collects only {listed(group.modalities)}; "
                    "allowed: tasks with an input that the group collects"
                )
                raise InputError(f"devices.{i}.tasks.{j}", problem)


def inputs_are_collected(config: Config) -> None:
    """Some device that executes a task collects each of its inputs, else its encoder is never trained."""
    for name, task in config.tasks.items():
        collected = {m for group in config.devices if name in group.tasks for m in group.modalities}
        for i, modality in enumerate(task.inputs):
            if modality not in collected:
                allowed = listed(sorted(collected))
                problem = f"no device that executes {name!r} collects {modality!r}; allowed: {allowed}"
                raise InputError(f"tasks.{name}.inputs.{i}", problem)


def device_classes_exist(config: Config) -> None:
    """A group's class is one of the network's."""
    if config.network is None:
        return
    for i, group in enumerate(config.devices):
        if group.device_class not in config.network.classes:
            problem = f"{group.device_class!r} is no class; allowed: {listed(config.network.classes)}"
            raise InputError(f"devices.{i}.device_class", problem)


def nodes_have_children(config: Config, tree: Tree) -> None:
    """A node without children would wait for updates that nobody sends."""
    for node in tree:
        if node.tier == DEVICE or tree.children[node.id]:
            continue
        topology = config.topology
        if isinstance(topology, ListedTopology):
            raise InputError("topology.tree", f"{node.id!r} has nothing below it; allowed: nodes with children")
        i = tree.tiers.index(node.tier) - 1
        count = topology.tiers[i].count
        if isinstance(topology, CountedTopology):
            below = tree.tiers[i + 2]
            most = sum(other.tier == below for other in tree)
            problem = f"{count} given, but the {below} tier below has only {most}; allowed: 1 to {most}"
        else:
            problem = (
                f"{count} given, but nothing is near {node.id!r}; allowed: fewer nodes, more devices, "
                "less topology.radius_m or another seed"
            )
        raise InputError(f"topology.tiers.{i}.count", problem)
