"""Frozen prefixes: what lies under the first trained parameter of a path, computed once a sample and kept.

A prefix is computed for one sample alone, so it does not depend on who shares its batch, and equal contents (the same
question, the same image) share one entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fogtune.platform.data.table import Raw, Table
from fogtune.platform.model.m3t import M3TModel


class PrefixCache:
    """Prefixes by content, up to a bound; beyond it they are computed again each time."""

    def __init__(self, model: M3TModel, tables: Mapping[str, Table], limit_bytes: int) -> None:
        self._model = model
        self._tables = tables
        self._limit_bytes = limit_bytes
        self._by_content: dict[bytes, Tensor] = {}
        self._content_of: dict[tuple[str, str, int], bytes] = {}
        self.nbytes = 0

    def get(self, source: str, modality: str, row: int) -> Tensor:
        """The prefix (T, C) of one row of a source."""
        where = (source, modality, row)
        content = self._content_of.get(where)
        if content is not None and content in self._by_content:
            return self._by_content[content]
        raw = self._tables[source].modalities[modality][row]
        content = content_digest(modality, raw)
        if content not in self._by_content:
            prefix = self._model.prefix(modality, raw)
            if self.nbytes + prefix.nbytes > self._limit_bytes:
                return prefix
            self._by_content[content] = prefix
            self.nbytes += prefix.nbytes
        self._content_of[where] = content
        return self._by_content[content]


def content_digest(modality: str, raw: Raw) -> bytes:
    """What names an input by its content."""
    content = raw.encode() if isinstance(raw, str) else np.ascontiguousarray(raw).tobytes()
    shape = () if isinstance(raw, str) else raw.shape
    return hashlib.blake2b(f"{modality} {shape} ".encode() + content, digest_size=16).digest()
