"""Held-out samples that the page offers, with their true labels."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice, zip_longest
from threading import Lock

import numpy as np
from PIL import Image
from pydantic import BaseModel

from fogtune.platform.config import Config, EmbeddedSource, Task
from fogtune.platform.data.labels import class_name
from fogtune.platform.data.partition import split_table
from fogtune.platform.data.sources import load_table
from fogtune.platform.data.table import Raw
from fogtune.platform.errors import AssetMissing
from fogtune.platform.rng import numpy_generator

COUNT = 8
"""Samples offered a task; fewer where fewer are held out."""


class Sample(BaseModel):
    """A sample as `:predict` takes it, and what is true of it."""

    inputs: dict[str, str | list[list[float]]]
    """Modality -> a text, a PNG in base64, or a series of T rows of C numbers."""
    label: str


class Samples:
    """A run's samples. Safe to ask from several threads.

    Only embedded sources give any: they are public data that ship in packages, whereas a folder or a Hugging Face data
    set may be private. Where a source is another one, or its package is not installed, there are none.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._found: dict[str, tuple[Sample, ...]] = {}
        self._one_reader = Lock()

    def of(self, task: str) -> tuple[Sample, ...]:
        """Up to `COUNT` held-out samples of a task, spread over its labels; the same for the same configuration.

        The first call for a task reads its source, which takes up to a second.

        Raises:
            KeyError: the run has no such task.
        """
        with self._one_reader:
            if task not in self._found:
                self._found[task] = self._read(task, self._config.tasks[task])
            return self._found[task]

    def _read(self, name: str, task: Task) -> tuple[Sample, ...]:
        source, seed = self._config.sources[task.source], self._config.seed
        if not isinstance(source, EmbeddedSource):
            return ()
        try:
            table = load_table(source)
        except AssetMissing:
            return ()
        held_out = split_table(task.source, source, table, [], seed).held_out
        rows = numpy_generator(seed, "serve/samples", name).permutation(held_out).tolist()
        labels = [class_name(table.labels[task.label][row]) for row in rows]
        return tuple(
            Sample(inputs={modality: _plain(table.modalities[modality][row]) for modality in task.inputs}, label=label)
            for row, label in islice(_spread(rows, labels), COUNT)
        )


def _spread(rows: Sequence[int], labels: Sequence[str]) -> chain[tuple[int, str]]:
    """Rows with their labels, in turn one of each label that has any left."""
    by_label: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row, label in zip(rows, labels, strict=True):
        by_label[label].append((row, label))
    turns = map(partial(filter, None), zip_longest(*by_label.values()))
    return chain.from_iterable(turns)


def _plain(raw: Raw) -> str | list[list[float]]:
    """As JSON; numbers are the shortest that are the same float32."""
    if isinstance(raw, str):
        return raw
    if raw.dtype == np.uint8:
        content = io.BytesIO()
        Image.fromarray(raw).save(content, "PNG")
        return base64.b64encode(content.getvalue()).decode("ascii")
    return [[float(str(value)) for value in row] for row in raw]
