"""Frozen prefixes: what lies under the first trained parameter of a path, computed once a sample and kept.

A prefix has the bits that it has when it is computed for its sample alone, whoever computes it and together with which
others (platform/model/same_bits.py), so it does not matter where one comes from: from memory, from disk, or computed
again. Equal contents (the same question, the same image) share one entry.

    memory, a process's own, up to a bound -> disk, all processes' and runs', up to a bound -> computed
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fogtune.platform.data.columns import taken
from fogtune.platform.data.table import Raw, Table
from fogtune.platform.model.backbone import Backbone
from fogtune.platform.model.device import moved
from fogtune.platform.model.encoder import Encoder
from fogtune.platform.model.fingerprint import conditions
from fogtune.platform.model.m3t import TEXT, M3TModel
from fogtune.platform.user_cache import user_cache

from .prefix_disk import DiskPrefixes

log = logging.getLogger(__name__)

AT_ONCE = 64
"""Samples that are read and computed at once."""


class PrefixCache:
    """Prefixes by content. What has found no room is computed again each time. For one thread."""

    def __init__(
        self, model: M3TModel, tables: Mapping[str, Table], limit_bytes: int, disk_limit_bytes: int = 0
    ) -> None:
        """Bounds are of all modalities together; on disk, in the user's cache, of all processes and networks."""
        self._model = model
        self.device = model.device
        """Where prefixes are, whatever they come from."""
        self._tables = tables
        self._limit_bytes = limit_bytes
        self._disk_limit_bytes = disk_limit_bytes
        self._by_content: dict[bytes, Tensor] = {}
        self._by_row: dict[tuple[str, str], dict[int, Tensor]] = {}
        """(Source, modality) -> row -> its entry."""
        self._disks: dict[tuple[Hashable, ...], DiskPrefixes | None] = {}
        """By modality, and the conditions under which its prefixes are computed."""
        self._may_write = True
        self.nbytes = 0

    def get(self, source: str, modality: str, row: int) -> Tensor:
        """The prefix (T, C) of one row of a source."""
        return self.get_many(source, modality, [row])[0]

    def get_many(self, source: str, modality: str, rows: Iterable[int]) -> list[Tensor]:
        """The prefixes (T, C) of rows of a source, in order: those that are missing are computed together."""
        known = self._by_row.setdefault((source, modality), {})
        wanted = [int(row) for row in rows]
        missing = list(dict.fromkeys(row for row in wanted if row not in known))
        found: dict[int, Tensor] = {}
        for i in range(0, len(missing), AT_ONCE):
            found |= self._fetch(source, modality, missing[i : i + AT_ONCE])
        return [found[row] if row in found else known[row] for row in wanted]

    def _fetch(self, source: str, modality: str, rows: Sequence[int]) -> dict[int, Tensor]:
        """Row -> prefix, of rows that are not known."""
        column = self._tables[source].modalities[modality]
        raws = dict(zip(rows, taken(column, rows), strict=True))
        contents = {row: content_digest(modality, raw) for row, raw in raws.items()}
        found = {content: self._by_content[content] for content in contents.values() if content in self._by_content}
        new = {content: raws[row] for row, content in contents.items() if content not in found}
        for content, prefix in self._made(modality, new).items():
            found[content] = prefix
            if self.nbytes + prefix.nbytes <= self._limit_bytes:
                self._by_content[content] = prefix
                self.nbytes += prefix.nbytes
        kept = {row: self._by_content[content] for row, content in contents.items() if content in self._by_content}
        self._by_row[source, modality] |= kept
        return {row: found[content] for row, content in contents.items()}

    @torch.inference_mode(False)  # a tensor made in this mode could not be trained on
    @torch.no_grad()
    def _made(self, modality: str, raws: Mapping[bytes, Raw]) -> dict[bytes, Tensor]:
        """Content -> prefix: those on disk from there, the others computed and put there."""
        if not raws:
            return {}
        disk = self._disk(modality)
        stored = disk.get(list(raws)) if disk else {}
        made = {content: moved(prefix, self.device) for content, prefix in stored.items()}
        missing = {content: raw for content, raw in raws.items() if content not in made}
        if missing:
            # In one order of memory, as from disk: products of tensors in another one may differ in a bit.
            prefixes = [prefix.contiguous() for prefix in self._compute(modality, list(missing.values()))]
            computed = dict(zip(missing, prefixes, strict=True))
            if disk:
                self._put(disk, computed)
            made |= computed
        return made

    def _compute(self, modality: str, raws: Sequence[Raw]) -> list[Tensor]:
        if modality == TEXT:
            return cast(Backbone, self._model.backbone).texts_tokens_exactly(cast(Sequence[str], raws))
        return cast(Encoder, self._model.encoders[modality]).prefixes_exactly(raws)

    def _put(self, disk: DiskPrefixes, prefixes: Mapping[bytes, Tensor]) -> None:
        """On disk; where that is impossible, the log says so, and it is not tried again."""
        if not self._may_write:
            return
        try:
            disk.put(prefixes)
        except (OSError, NotImplementedError) as error:
            self._may_write = False
            log.warning("frozen prefixes are not kept on disk: %s", error)

    def _disk(self, modality: str) -> DiskPrefixes | None:
        """Where a modality's prefixes lie on disk; None for none that are worth it, and where there is no disk."""
        where = (modality, *conditions())
        if where not in self._disks:
            root = user_cache() if self._disk_limit_bytes else None
            network = cast(
                Backbone | Encoder, self._model.encoders[modality] if modality != TEXT else self._model.backbone
            )
            fingerprint = None if root is None else network.fingerprint()
            self._disks[where] = (
                DiskPrefixes(root / "prefixes", fingerprint, self._disk_limit_bytes) if root and fingerprint else None
            )
        return self._disks[where]


def content_digest(modality: str, raw: Raw) -> bytes:
    """What names an input by its content."""
    content = raw.encode() if isinstance(raw, str) else np.ascontiguousarray(raw).tobytes()
    shape = () if isinstance(raw, str) else (raw.dtype.str, raw.shape)
    return hashlib.blake2b(f"{modality} {shape} ".encode() + content, digest_size=16).digest()
