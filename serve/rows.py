"""What travels between gateway and model server: rows to predict, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fogtune.platform.data.table import Raw


@dataclass(frozen=True)
class Row:
    """One sample, and who answers for it."""

    task: str
    variant: str
    """global, fog:ID, device:ID, ..."""
    version: int
    inputs: Mapping[str, Raw]
    """Modality -> value, at least one."""


@dataclass(frozen=True)
class Refusal:
    """Why a row has no scores."""

    status: int
    """As HTTP says it: 422 for what is wrong with the row itself, 503 for what is wrong here."""
    reason: str


Outcome = NDArray[np.float32] | Refusal
"""(O,) scores of a row: probabilities, or the number of a regression."""
