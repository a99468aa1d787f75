"""Frozen prefixes of recent inputs: what lies under the first trained parameter is a pure function of the input.

Equal inputs share one entry, whoever sends them; those used longest ago make room.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachetools import LRUCache
from torch import Tensor

from fogtune.platform.data.table import Raw
from fogtune.platform.learning.prefixes import content_digest
from fogtune.platform.model.m3t import M3TModel


class Prefixes:
    """Computes prefixes, many at once, and remembers them up to a bound; for one thread."""

    def __init__(self, model: M3TModel, limit_bytes: int) -> None:
        self._model = model
        self._kept: LRUCache[bytes, Tensor] = LRUCache(limit_bytes, getsizeof=lambda prefix: prefix.nbytes)

    def get(self, modality: str, raws: Sequence[Raw]) -> list[Tensor]:
        """The prefixes (T, C) of some inputs of one modality, in order."""
        contents = [content_digest(modality, raw) for raw in raws]
        found = {content: self._kept[content] for content in contents if content in self._kept}
        missing = {content: raw for content, raw in zip(contents, raws, strict=True) if content not in found}
        if missing:
            computed = self._model.prefixes(modality, list(missing.values()))
            for content, prefix in zip(missing, computed, strict=True):
                found[content] = prefix
                if prefix.nbytes <= self._kept.maxsize:
                    self._kept[content] = prefix
        return [found[content] for content in contents]
