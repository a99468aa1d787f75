"""The common form of every data source: a table of samples, columns by modality, labels, natural groups, splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
"""Row numbers of a table, sorted."""

Label = str | float | tuple[str, ...]
"""A class, a number, or the set of labels that hold: for classification, regression, multi-label."""

Raw = str | NDArray[np.uint8] | NDArray[np.float32]
"""A sample of one modality: a text, an image (H, W, 3) uint8, a series (T, C) float32, or a plain list (N,) float32,
which is one step of a series, or all steps of a series of one channel."""


@dataclass(frozen=True)
class Table:
    """A loaded source. Columns may decode on access (images stay files until somebody asks for the row)."""

    modalities: Mapping[str, Sequence[Raw]]
    """Modality -> its column, one value a row."""
    labels: Mapping[str, Sequence[Label]]
    """Label -> its column, one value a row."""
    groups: Sequence[str] | None
    """Natural group a row, or none."""
    splits: Mapping[str, Indices]
    """The source's own splits; `train` always exists; what `held_out.split` names is here too."""

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))


@dataclass(frozen=True)
class Shard:
    """The rows of one device; both parts are non-empty and disjoint."""

    train: Indices
    test: Indices


@dataclass(frozen=True)
class Split:
    """A source divided: no row is in two places."""

    devices: Mapping[str, Shard]
    """Device id -> its rows."""
    held_out: Indices
    """Rows that no device has."""
