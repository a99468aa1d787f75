"""Predicts rows of any tasks, versions and variants in one forward pass over one shared backbone. No Ray, no HTTP.

Rows are grouped into segments by task and inputs, for their heads and encoders differ in shape; the pass through the
backbone is one for all of about one length. Each row's modules are gathered from slabs (serve/module_store.py) without
a loop over variants; only encoders, which are large, run version by version (platform/model/m3t.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from fogtune.platform.errors import InputError
from fogtune.platform.learning.batches import padded
from fogtune.platform.model.heads import HEADS
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.model.segments import Segment

from .module_store import ModuleStore
from .prefixes import Prefixes
from .registry import Entry, Registry
from .rows import Outcome, Refusal, Row
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
        self._resolve = lru_cache(maxsize=2**13)(self._resolved)
        self._heads = {name: task.head for name, task in registry.config.tasks.items()}
        if registry.newest():
            _ = self.store  # loads the backbone now, not for the first request

    @cached_property
    def _model(self) -> M3TModel:
        newest = self._registry.newest()
        if newest is None:
            raise InputError("version", "the run has published none that can be read")
        model = M3TModel(self._registry.config, {name: task.labels for name, task in newest.tasks.items()})
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
        return [outcome for i in range(0, len(rows), size) for outcome in self._outcomes(rows[i : i + size])]

    def _outcomes(self, rows: Sequence[Row]) -> list[Outcome]:
        try:
            return self._pass(rows)
        except Exception:  # of any kind: whose fault it is shows when each is tried alone
            if len(rows) > 1:
                return [outcome for row in rows for outcome in self._outcomes([row])]
            log.exception("a row of %s cannot be predicted", rows[0].task)
            return [Refusal(503, "the model failed; the server's log says more")]

    @torch.inference_mode()
    def _pass(self, rows: Sequence[Row]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        segments: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        resolved: dict[int, Modules] = {}
        for i, row in enumerate(rows):
            try:
                resolved[i] = self._required(row)
            except InputError as error:
                log.error("a row is not answered: %s", error)
                outcomes[i] = Refusal(503, str(error))
            else:
                segments.setdefault((row.task, tuple(row.inputs)), []).append(i)
        prefixes = self._read({i: rows[i] for some in segments.values() for i in some})
        for some in segments.values():
            for i in tuple(some):
                try:
                    self._model.check_length(prefixes[i])
                except InputError as error:
                    outcomes[i] = Refusal(422, str(error))
                    some.remove(i)
        segments = {key: some for key, some in segments.items() if some}
        if not segments:
            return [outcomes[i] for i in range(len(rows))]
        ordered = [i for some in segments.values() for i in some]
        outputs = self._model.predict(
            [_segment(task, inputs, [prefixes[i] for i in some]) for (task, inputs), some in segments.items()],
            self.store.versions([resolved[i] for i in ordered]),
        )
        scores = [HEADS[self._heads[task]].scores(said) for (task, _), said in zip(segments, outputs, strict=True)]
        outcomes |= zip(ordered, (row for part in scores for row in part.cpu().numpy()), strict=True)
        return [outcomes[i] for i in range(len(rows))]

    def _required(self, row: Row) -> Modules:
        """The row's modules, at hand now. InputError if one cannot be had."""
        written_ns = self._registry.read(row.version).written_ns
        modules = self._resolve(row.version, written_ns, row.task, row.variant, tuple(row.inputs))
        for module, entry in modules.items():
            self.store.require(module, entry)
        return modules

    def _read(self, rows: Mapping[int, Row]) -> dict[int, dict[str, Tensor]]:
        """Prefixes by row and modality, those of one modality together."""
        found: dict[int, dict[str, Tensor]] = {i: {} for i in rows}
        for modality in dict.fromkeys(modality for row in rows.values() for modality in row.inputs):
            having = [i for i, row in rows.items() if modality in row.inputs]
            for i, prefix in zip(
                having, self._prefixes.get(modality, [rows[i].inputs[modality] for i in having]), strict=True
            ):
                found[i][modality] = prefix
        return found

    def _resolved(self, version: int, _: int, task: str, variant: str, inputs: tuple[str, ...]) -> Modules:
        registry = self._registry
        return resolve(registry.config, registry.tree, registry.read(version), task, variant, inputs)


def _segment(task: str, inputs: Sequence[str], rows: Sequence[Mapping[str, Tensor]]) -> Segment:
    found = {}
    for modality in inputs:
        values, mask = padded([row[modality] for row in rows])
        found[modality] = (values, mask.to(values.device))
    return Segment(task, found)
