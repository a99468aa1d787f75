"""Checks of tasks and splits against what a source is known, or said, to have."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from .data import OWN, EmbeddedSource, FolderSource, NaturalPartition, Source
from .describe import listed
from .root import Config


@dataclass(frozen=True)
class _Facts:
    modalities: tuple[str, ...]
    labels: tuple[str, ...]
    grouped: bool
    """Whether samples belong to natural groups."""


_ASSETS = {
    "easy-vqa": _Facts(("text", "image"), ("answer",), grouped=False),
    "seglearn": _Facts(("imu",), ("exercise", "side"), grouped=True),
    "bbc-news": _Facts(("text",), ("topic",), grouped=False),
}


def _facts(source: Source) -> _Facts:
    if isinstance(source, EmbeddedSource):
        return _ASSETS[source.asset]
    grouped = source.group is not None or source.held_out.path is not None
    return _Facts(tuple(source.columns), tuple(source.labels), grouped)


def task_inputs_exist(config: Config) -> None:
    """A task reads only what its source has."""
    for name, task in config.tasks.items():
        facts = _facts(config.sources[task.source])
        for i, modality in enumerate(task.inputs):
            if modality not in facts.modalities:
                problem = f"source {task.source!r} has no {modality!r}; allowed: {listed(facts.modalities)}"
                raise InputError(f"tasks.{name}.inputs.{i}", problem)


def task_labels_exist(config: Config) -> None:
    """A task learns a label that its source has."""
    for name, task in config.tasks.items():
        facts = _facts(config.sources[task.source])
        if task.label not in facts.labels:
            problem = f"source {task.source!r} has no label {task.label!r}; allowed: {listed(facts.labels)}"
            raise InputError(f"tasks.{name}.label", problem)


def partition_labels_exist(config: Config) -> None:
    """A split by label is by a label of the source."""
    for name, source in config.sources.items():
        label = getattr(source.partition, "label", None)
        facts = _facts(source)
        if label is not None and label not in facts.labels:
            problem = f"source {name!r} has no label {label!r}; allowed: {listed(facts.labels)}"
            raise InputError(f"sources.{name}.partition.label", problem)


def own_folders_are_whole(config: Config) -> None:
    """Where each device has a folder of its own, held-out data have one, too, and nothing is left to divide."""
    for name, source in config.sources.items():
        where = f"sources.{name}"
        if not isinstance(source, FolderSource) or OWN not in source.path:
            if source.held_out.path is not None:
                problem = f"given, but no folder of each device's own ({OWN} in its path); allowed: split or fraction"
                raise InputError(f"{where}.held_out.path", problem)
            continue
        if source.held_out.path is None:
            problem = "each device has a folder of its own; allowed: path, a folder with what no device trains on"
            raise InputError(f"{where}.held_out", problem)
        if not isinstance(source.partition, NaturalPartition) or source.group is not None:
            field = "group" if source.group is not None else "partition.kind"
            problem = "given, but a device has what lies in its own folder; allowed: nothing"
            raise InputError(f"{where}.{field}", problem)


def natural_groups_exist(config: Config) -> None:
    """A natural split needs natural groups."""
    for name, source in config.sources.items():
        if isinstance(source.partition, NaturalPartition) and not _facts(source).grouped:
            problem = f"natural given, but {_ungrouped(name, source)}; allowed: dirichlet | shards | iid"
            raise InputError(f"sources.{name}.partition.kind", problem)


def held_out_groups_exist(config: Config) -> None:
    """Groups can be held out only where there are groups."""
    for name, source in config.sources.items():
        if source.held_out.groups is not None and not _facts(source).grouped:
            groups = listed(source.held_out.groups)
            problem = f"{groups} given, but {_ungrouped(name, source)}; allowed: split or fraction instead"
            raise InputError(f"sources.{name}.held_out.groups", problem)


def _ungrouped(name: str, source: Source) -> str:
    if isinstance(source, EmbeddedSource):
        return f"{source.asset} has no natural groups"
    return f"sources.{name}.group names no column of natural groups"
