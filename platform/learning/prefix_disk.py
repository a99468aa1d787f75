"""Prefixes on disk: shared by all processes of a machine, and kept between runs.

    <root>/lock                    held while somebody writes or makes room
    <root>/<fingerprint>/*.shard   of one frozen network; their names sort by age, the newest is appended to

A shard is a row of records: a header of 64 bytes (key, shape, checksums), then the values, float32, up to a multiple of
64 bytes. Nothing written is ever changed. Reading takes no lock: a record is seen once its header is there, which is
written last, and what does not match its checksum (torn by a kill or a full disk, or rotten) counts as not there. A
shard that does not end where its last whole record ends is not appended to. To make room, the shard that nobody has
used for longest is deleted as a whole; who has it open reads on.

Values are copied out, not memory-mapped: a map would end the process where a file on a network disk vanishes.
"""

from __future__ import annotations

import glob
import os
import secrets
import struct
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

SHARDS = 64
"""Shards that the bound is divided into: what is deleted at once, and files that a reader has open, at most."""
LOCK_S = 5.0
"""How long a writer waits for others, who take milliseconds."""

_RECORD = 64  # bytes of a header, and what records are aligned to
_HEADER = struct.Struct("<4s16sIII")  # magic, key, rows, channels, checksum of the values; then that of all these
_MAGIC = b"FGP1"
_TOUCH_S = 60.0
_DIGITS = 20


class _Place(NamedTuple):
    shard: _Shard
    offset: int
    rows: int
    channels: int
    checksum: int


class _Record(NamedTuple):
    header: bytes
    values: memoryview
    """Bytes, one dimension."""

    @property
    def nbytes(self) -> int:
        return _RECORD + _padded(len(self.values))


class _Shard:
    """Open for reading, until nobody refers to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY)
        self.end = 0
        """Where its last whole record ends that has been seen."""
        self.touched_s = -_TOUCH_S
        weakref.finalize(self, os.close, self.descriptor)


class DiskPrefixes:
    """Prefixes of one frozen network by key (16 bytes). For one thread; any number of processes."""

    def __init__(self, root: Path, fingerprint: str, limit_bytes: int) -> None:
        """Touch nothing yet.

        Args:
            root: directory of all networks' prefixes.
            fingerprint: of the network, a file name.
            limit_bytes: what all shards below `root` may take together.
        """
        self._root = root
        self._directory = root / fingerprint
        self._limit_bytes = limit_bytes
        self._shards: dict[str, _Shard] = {}
        self._places: dict[bytes, _Place] = {}

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """Those prefixes (T, C) that are there, by key."""
        if any(key not in self._places for key in keys):
            with suppress(OSError):
                self._look()
        found = {}
        for key in keys:
            if (place := self._places.get(key)) is None:
                continue
            if (values := _read(place)) is None:
                del self._places[key]
                continue
            _touch(place.shard)
            found[key] = values
        return found

    def put(self, prefixes: Mapping[bytes, Tensor]) -> None:
        """Keep prefixes (T, C), float32, unless another process has.

        Raises:
            OSError: nothing can be written (no space, no permission), or another process stands still in the middle.
            NotImplementedError: a file system without locks.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with FileLock(self._root / "lock", timeout=LOCK_S, poll_interval=0.005):
            self._look()
            records = [_record(key, values) for key, values in prefixes.items() if key not in self._places]
            for some in _together(records, self._limit_bytes // SHARDS):
                self._append(some)

    def _append(self, records: Sequence[_Record]) -> None:
        """Under the lock: add to the newest shard, or begin one."""
        nbytes = sum(record.nbytes for record in records)
        newest = self._shards[max(self._shards)] if self._shards else None
        if newest is not None:
            size = os.fstat(newest.descriptor).st_size
            if size != newest.end or size + nbytes > self._limit_bytes // SHARDS or not newest.path.exists():
                newest = None
        after = int(max(self._shards)[:_DIGITS]) + 1 if self._shards else 0  # the newest, whatever clocks say
        path = self._directory / f"{max(time.time_ns(), after):0{_DIGITS}d}-{secrets.token_hex(4)}.shard"
        if not _make_room(self._root, nbytes, self._limit_bytes, newest.path if newest else None):
            return
        self._directory.mkdir(exist_ok=True)
        with open(newest.path if newest else path, "r+b" if newest else "xb", buffering=0) as file:
            end = newest.end if newest else 0
            try:
                offset = end
                for record in records:
                    if record is not records[0]:
                        _write(file.fileno(), record.header, offset)
                    _write(file.fileno(), record.values, offset + _RECORD)
                    offset += record.nbytes
                os.ftruncate(file.fileno(), offset)  # zeros up to a multiple of 64
                _write(file.fileno(), records[0].header, end)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file.fileno(), end)
                raise
        self._look()

    def _look(self) -> None:
        """Take note of records that have been written since, and of shards that have been deleted."""
        try:
            names = sorted(name for name in os.listdir(self._directory) if name.endswith(".shard"))
        except FileNotFoundError:
            names = []
        newest = max(self._shards, default="")
        if gone := self._shards.keys() - set(names):
            self._places = {key: place for key, place in self._places.items() if place.shard.path.name not in gone}
            for name in gone:
                del self._shards[name]
        for name in names:
            if name not in self._shards:
                self._shards[name] = _Shard(self._directory / name)
            elif name != newest:
                continue  # only the newest is ever appended to
            self._places |= _new_records(self._shards[name])


def _new_records(shard: _Shard) -> dict[bytes, _Place]:
    """Key -> place of the records behind `shard.end`, which moves on."""
    found = {}
    size = os.fstat(shard.descriptor).st_size
    while shard.end + _RECORD <= size:
        header = os.pread(shard.descriptor, _RECORD, shard.end)
        magic, key, rows, channels, checksum = _HEADER.unpack_from(header)
        end = shard.end + _RECORD + _padded(4 * rows * channels)
        if magic != _MAGIC or header != _header(key, rows, channels, checksum) or end > size:
            break
        found[key] = _Place(shard, shard.end + _RECORD, rows, channels, checksum)
        shard.end = end
    return found


def _read(place: _Place) -> Tensor | None:
    """The values of a record, or None if they are not what was written."""
    values = torch.empty(place.rows, place.channels)
    content = values.numpy().data.cast("B")
    try:
        whole = os.preadv(place.shard.descriptor, [content], place.offset) == len(content)
    except OSError:
        return None
    return values if whole and zlib.crc32(content) == place.checksum else None


def _touch(shard: _Shard) -> None:
    """Note in its time of modification that a shard is in use."""
    now_s = time.monotonic()
    if now_s >= shard.touched_s + _TOUCH_S:
        shard.touched_s = now_s
        with suppress(OSError):
            os.utime(shard.path)


def _record(key: bytes, values: Tensor) -> _Record:
    content = values.detach().cpu().contiguous().numpy().data.cast("B")
    return _Record(_header(key, values.shape[0], values.shape[1], zlib.crc32(content)), content)


def _header(key: bytes, rows: int, channels: int, checksum: int) -> bytes:
    content = _HEADER.pack(_MAGIC, key, rows, channels, checksum)
    return (content + zlib.crc32(content).to_bytes(4, "little")).ljust(_RECORD, b"\0")


def _padded(length: int) -> int:
    return -(-length // _RECORD) * _RECORD


def _together(records: Iterable[_Record], most_bytes: int) -> Iterator[list[_Record]]:
    """As many records as fit into a shard, or a single one that is larger."""
    some: list[_Record] = []
    for record in records:
        if some and sum(one.nbytes for one in some) + record.nbytes > most_bytes:
            yield some
            some = []
        some.append(record)
    if some:
        yield some


def _write(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    """All of it: a write may stop early, and says only in the next one that the disk is full."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _make_room(root: Path, nbytes: int, limit_bytes: int, keep: Path | None) -> bool:
    """Delete the shards that were used longest ago, but for `keep`, until `nbytes` more fit; whether they do."""
    found = [(os.stat(path), path) for path in glob.glob(f"{glob.escape(str(root))}/*/*.shard")]
    shards = [(status.st_mtime_ns, status.st_size, Path(path)) for status, path in found]
    total = sum(size for _, size, _ in shards)
    for _, size, path in sorted(shards):
        if total + nbytes <= limit_bytes or nbytes > limit_bytes:
            break
        if path != keep:
            path.unlink(missing_ok=True)
            total -= size
            with suppress(OSError):  # others are in it
                path.parent.rmdir()
    return total + nbytes <= limit_bytes
