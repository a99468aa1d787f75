"""What one process needs to train and evaluate devices: the tables, the split, the model and the prefixes, once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, islice

import numpy as np
import torch
from torch import Tensor

from fogtune.platform.collecting import uncollected
from fogtune.platform.config import Config, DeviceGroup, FolderSource, ImageEncoder
from fogtune.platform.data.columns import taken
from fogtune.platform.data.labels import encode_labels, label_names
from fogtune.platform.data.own_folders import load_own_folders
from fogtune.platform.data.partition import split_table
from fogtune.platform.data.sources import load_table
from fogtune.platform.data.table import Indices, Split, Table
from fogtune.platform.errors import InputError
from fogtune.platform.model.device import choose
from fogtune.platform.model.heads import HEADS, HeadKind
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.model.matmul import computes_bf16
from fogtune.platform.model.statistics import LARGEST_RMS, measure
from fogtune.platform.modules import is_standardised, modules_of_task
from fogtune.platform.ownership import Ownership, own, task_begins
from fogtune.platform.topology import CLOUD, Tree
from fogtune.platform.topology_build import build_tree

from .batches import epochs, window
from .prefixes import AT_ONCE, PrefixCache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """The data of all sources, loaded and divided: a function of the configuration alone.

    Of a source whose devices have folders of their own it may be the part that lies on one machine, with nothing of a
    source that has no part there.
    """

    tables: dict[str, Table]
    splits: dict[str, Split]
    labels: dict[str, tuple[str, ...]]
    """Task -> label names."""

    @classmethod
    def load(
        cls,
        config: Config,
        tree: Tree,
        machine: str | None = None,
        labels: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Dataset:
        """Read every source and divide it among the devices that execute a task on it.

        Args:
            config: the run's configuration.
            tree: of the configuration.
            machine: the machine whose folders of devices are read; all by default.
            labels: task -> label names; by default those that the source has. Of devices' own folders nobody sees all:
                label names are then those of the held-out data, which the cloud's machine reads.

        Raises:
            InputError: a source cannot be read or divided as configured, or leaves a device nothing to train on.
            AssetMissing: an embedded source is not installed.
        """
        groups = {group.name: group for group in config.devices}
        tables, splits = {}, {}
        for name, source in config.sources.items():
            tasks = {task for task, section in config.tasks.items() if section.source == name}
            users = [d for d in tree.devices if tasks.intersection(groups[tree[d].group or ""].tasks)]
            if isinstance(source, FolderSource) and source.held_out.path is not None:
                users = [device for device in users if machine in (None, tree[device].machine)]
                held_out = machine in (None, tree[CLOUD].machine)
                if not users and not held_out:
                    continue
                tables[name] = load_own_folders(source, f"sources.{name}", users, held_out)
            else:
                tables[name] = load_table(source, f"sources.{name}")
            splits[name] = split_table(name, source, tables[name], users, config.seed)
            for device, shard in splits[name].devices.items():
                group = groups[tree[device].group or ""]
                for task in (task for task in group.tasks if task in tasks):
                    _require_training(config, group, device, task, len(shard.train))
        if labels is None:
            known = {name: _known(config, name, tables[name], split) for name, split in splits.items()}
            labels = {
                name: label_names(known[task.source], task.label, HEADS[task.head].labels, name)
                for name, task in config.tasks.items()
            }
        for name, split in splits.items():
            _require_known_labels(config, name, tables[name], split, labels)
        return cls(tables, splits, dict(labels))


def _known(config: Config, source: str, table: Table, split: Split) -> Table:
    """What of a source may be known to all: where devices have folders of their own, the held-out rows."""
    return table if config.sources[source].held_out.path is None else _labels_of(table, split.held_out)


def _labels_of(table: Table, rows: Indices) -> Table:
    """A table with the labels of some rows."""
    return replace(table, labels={name: [column[row] for row in rows] for name, column in table.labels.items()})


def _require_known_labels(
    config: Config, source: str, table: Table, split: Split, labels: Mapping[str, tuple[str, ...]]
) -> None:
    """InputError if a device's own folder has a label that the held-out data lack."""
    if config.sources[source].held_out.path is None:
        return
    for device, shard in split.devices.items():
        for name, task in config.tasks.items():
            if task.source == source:
                try:
                    part = _labels_of(table, np.concatenate([shard.train, shard.test]))
                    encode_labels(part, task.label, HEADS[task.head].labels, labels[name], name)
                except InputError as error:
                    raise InputError(error.where, f"{error.problem} (of {device})") from None


@dataclass(frozen=True)
class Part:
    """A device's data for one task."""

    source: str
    modalities: tuple[str, ...]
    train: Indices
    test: Indices


@dataclass(frozen=True)
class Statistics:
    """What a device measured of a modality."""

    tensors: dict[str, Tensor]
    samples: int


def _require_training(config: Config, group: DeviceGroup, device: str, task: str, samples: int) -> None:
    """InputError if a device would never train a task."""
    begins, passes = task_begins(config, group, task), epochs(config, task)
    if window(samples, passes, config.rounds)[1] > window(samples, passes, begins)[0]:
        return
    where = "local.epochs" if config.tasks[task].epochs is None else f"tasks.{task}.epochs"
    has = f"{device} has {samples} samples of {config.tasks[task].source}"
    allowed = f"at least {1 / ((config.rounds - begins + 1) * max(1, samples)):.3g}, to train on one"
    raise InputError(where, f"{passes:g} given, but {has}; allowed: {allowed}")


class Workbench:
    """Shared by all the devices that a process hosts."""

    def __init__(
        self, config: Config, machine: str | None = None, labels: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        """Load data and model.

        Args:
            config: the run's configuration.
            machine: which reads of devices' own folders what it has; all by default.
            labels: task -> label names; by default those that the sources have.

        Raises:
            InputError: data or weights cannot be used as configured, or there is no GPU.
        """
        self.config = config
        self.tree = build_tree(config)
        self.ownership: Ownership = own(config, self.tree)
        with uncollected():  # libraries are imported where a model first needs them
            self.dataset = Dataset.load(config, self.tree, machine, labels)
            self.model = M3TModel(config, self.dataset.labels).to(choose(config.execution.gpus_per_actor))
        execution = config.execution
        if execution.precision == "bf16" and self.model.device.type == "cpu" and not computes_bf16():
            log.warning("execution.precision: this processor has no bf16; fp32 would be faster")
        self.prefixes = PrefixCache(
            self.model, self.dataset.tables, execution.prefix_cache_bytes, execution.prefix_disk_bytes
        )
        self._modules_of: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
        self._statistics: dict[str, dict[str, Statistics]] = {}
        self._parts: dict[str, dict[str, Part]] = {}

    @cached_property
    def targets(self) -> dict[str, Tensor]:
        """Task -> targets of all rows of its source, where it has any here."""
        tables, labels = self.dataset.tables, self.dataset.labels
        return {
            name: torch.from_numpy(
                encode_labels(tables[task.source], task.label, HEADS[task.head].labels, labels[name], name)
            )
            for name, task in self.config.tasks.items()
            if task.source in tables
        }

    def parts(self, device: str, round_number: int | None = None) -> dict[str, Part]:
        """Task -> the device's data for it; of the tasks that have begun in a round, if one is given."""
        tasks = self.config.tasks
        if device not in self._parts:
            self._parts[device] = {task: self._part(device, task) for task in self.ownership.tasks_of(device)}
        every = self._parts[device].items()
        return {task: part for task, part in every if round_number is None or tasks[task].begins <= round_number}

    def _part(self, device: str, task: str) -> Part:
        source = self.config.tasks[task].source
        shard = self.dataset.splits[source].devices[device]
        return Part(source, self.ownership.inputs_of(device, task), shard.train, shard.test)

    def lengths(self, part: Part, rows: Indices) -> Indices:
        """Of samples of a part: letters of the text and steps of series; images are all of one size."""
        total = np.zeros(len(rows), np.int64)
        for modality in part.modalities:
            if not isinstance(self.config.model.encoders.get(modality), ImageEncoder):
                column = self.dataset.tables[part.source].modalities[modality]
                total += np.array([len(raw) for raw in taken(column, rows.tolist())], np.int64)
        return total

    def modules_of(self, task: str, modalities: tuple[str, ...]) -> tuple[str, ...]:
        """`modules_of_task`, worked out once."""
        if (task, modalities) not in self._modules_of:
            self._modules_of[task, modalities] = modules_of_task(self.config, task, modalities)
        return self._modules_of[task, modalities]

    def statistics(self, device: str) -> dict[str, Statistics]:
        """Modality -> what the device's training part says of it, for modalities that have statistics; measured once.

        Raises:
            InputError: a channel is too large for statistics to be added up over devices.
        """
        if device not in self._statistics:
            rows: dict[str, dict[tuple[str, int], None]] = {}
            for part in self.parts(device).values():
                for modality in part.modalities:
                    if is_standardised(self.config, modality):
                        rows.setdefault(modality, {}).update({(part.source, int(row)): None for row in part.train})
            self._statistics[device] = {modality: self._measure(modality, some) for modality, some in rows.items()}
        return self._statistics[device]

    def _measure(self, modality: str, rows: Collection[tuple[str, int]]) -> Statistics:
        found = measure(self._prefixes(modality, rows))
        rms = found["square"].sqrt()
        if bool((rms > LARGEST_RMS).any()):
            sources = " and ".join(sorted({source for source, _ in rows}))
            problem = f"channel {int(rms.argmax())} of {sources} has values of about {float(rms.max()):.3g}"
            allowed = f"allowed: up to {LARGEST_RMS:g}; rescale a series, or choose another trunk"
            raise InputError(f"model.encoders.{modality}", f"{problem}; {allowed}")
        return Statistics(found, len(rows))

    def _prefixes(self, modality: str, rows: Iterable[tuple[str, int]]) -> Iterator[Tensor]:
        """Of (source, row), in order; never all in memory at once."""
        for source, some in groupby(rows, key=lambda where: where[0]):
            while part := [row for _, row in islice(some, AT_ONCE)]:
                yield from self.prefixes.get_many(source, modality, part)

    def head_of(self, task: str) -> HeadKind:
        """The kind of head of a task: its loss and its metrics."""
        return HEADS[self.config.tasks[task].head]

    def held_out(self, task: str) -> Indices:
        """Held-out rows of a task's source."""
        return self.dataset.splits[self.config.tasks[task].source].held_out
