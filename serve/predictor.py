"""Predicts rows of any tasks, versions and variants in one forward pass over one shared backbone. No Ray, no HTTP.

Rows are grouped into segments by task and inputs, for their heads and encoders differ in shape; the pass through the
backbone is one for all. Each row's modules are gathered from slabs (serve/module_store.py): no loop over variants.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property, lru_cache

import torch

from fogtune.platform.errors import InputError
from fogtune.platform.learning.batches import padded
from fogtune.platform.model.heads import HEADS
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.model.segments import Segment

from .module_store import ModuleStore
from .prefixes import Prefixes
from .registry import Entry, Registry
from .rows import Outcome, Row
from .settings import Settings
from .variants import resolve

log = logging.getLogger(__name__)

Modules = dict[str, Entry | None]


class Predictor:
    """One model and all that was published; for one thread at a time."""

    def __init__(self, registry: Registry, settings: Settings, device: str = "cpu") -> None:
        self._registry = registry
        self._settings = settings
        self._device = device
        self._resolve = lru_cache(maxsize=2**16)(self._resolved)
        self._heads = {name: task.head for name, task in registry.config.tasks.items()}
        if registry.versions():
            _ = self.store  # loads the backbone now, not for the first request

    @cached_property
    def _model(self) -> M3TModel:
        registry = self._registry
        tasks = registry.read(registry.versions()[-1]).tasks
        model = M3TModel(registry.config, {name: task.labels for name, task in tasks.items()})
        return model.to(self._device)

    @cached_property
    def store(self) -> ModuleStore:
        """The modules at hand."""
        return ModuleStore(self._model, self._settings.max_batch_rows, self._settings.module_memory_bytes)

    @cached_property
    def _prefixes(self) -> Prefixes:
        return Prefixes(self._model, self._settings.prefix_memory_bytes)

    def predict(self, rows: Sequence[Row]) -> list[Outcome]:
        """The outcomes of any number of rows, in order; a row that cannot be answered does not concern the others."""
        size = self._settings.max_batch_rows
        return [outcome for i in range(0, len(rows), size) for outcome in self._pass(rows[i : i + size])]

    @torch.inference_mode()
    def _pass(self, rows: Sequence[Row]) -> list[Outcome]:
        outcomes: list[Outcome] = [""] * len(rows)
        segments: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        resolved: dict[int, Modules] = {}
        for i, row in enumerate(rows):
            inputs = tuple(row.inputs)
            try:
                resolved[i] = self._resolve(row.version, row.task, row.variant, inputs)
                for module, entry in resolved[i].items():
                    self.store.require(module, entry)
            except InputError as error:
                log.error("a row is not answered: %s", error)
                outcomes[i] = str(error)
            else:
                segments.setdefault((row.task, inputs), []).append(i)
        if segments:
            ordered = [i for some in segments.values() for i in some]
            outputs = self._model.predict(
                [self._segment(task, inputs, [rows[i] for i in some]) for (task, inputs), some in segments.items()],
                self.store.versions([resolved[i] for i in ordered]),
            )
            scores = [HEADS[self._heads[task]].scores(said) for (task, _), said in zip(segments, outputs, strict=True)]
            for i, found in zip(ordered, (row for part in scores for row in part.cpu().numpy()), strict=True):
                outcomes[i] = found
        return outcomes

    def _segment(self, task: str, inputs: Sequence[str], rows: Sequence[Row]) -> Segment:
        found = {}
        for modality in inputs:
            prefixes = self._prefixes.get(modality, [row.inputs[modality] for row in rows])
            values, mask = padded(prefixes)
            found[modality] = (values, mask.to(values.device))
        return Segment(task, found)

    def _resolved(self, version: int, task: str, variant: str, inputs: tuple[str, ...]) -> Modules:
        registry = self._registry
        return resolve(registry.config, registry.tree, registry.read(version), task, variant, inputs)
