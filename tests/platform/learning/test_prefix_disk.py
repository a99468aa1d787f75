"""Prefixes on disk: what comes back is what was put, from any process, whatever happened to the files meanwhile."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fogtune.platform.learning import prefix_disk
from fogtune.platform.learning.prefix_disk import SHARDS, DiskPrefixes

LIMIT = 2**26


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def values(number: int, rows: int = 4, channels: int = 24) -> Tensor:
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(number))


def some(numbers: range, rows: int = 4) -> dict[bytes, Tensor]:
    return {key(number): values(number, rows) for number in numbers}


def same(found: dict[bytes, Tensor], expected: dict[bytes, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.fixture
def disk(tmp_path: Path) -> Callable[..., DiskPrefixes]:
    """Opens the prefixes below `tmp_path`, as another process would."""

    def opened(fingerprint: str = "one", limit_bytes: int = LIMIT) -> DiskPrefixes:
        return DiskPrefixes(tmp_path / "prefixes", fingerprint, limit_bytes)

    return opened


def shards(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "prefixes").glob("*/*.shard"))


Disk = Callable[..., DiskPrefixes]


# What was put comes back


def test_what_comes_back_is_what_was_put(disk: Disk) -> None:
    odd = {
        key(100): torch.tensor([[float("nan"), -0.0, 1e-45]]),
        key(101): values(7, 3, 5).t(),
        key(102): values(8, 700),
    }
    one, other = disk(), disk()
    one.put(some(range(5)))
    one.put(odd)
    for who in (one, other):
        assert same(who.get([key(n) for n in (0, 1, 2, 3, 4, 5)]), some(range(5)))
        found = who.get(list(odd))
        assert all(found[k].numpy().tobytes() == odd[k].contiguous().numpy().tobytes() for k in odd)
        assert all(tensor.is_contiguous() for tensor in found.values())


def test_what_comes_back_may_be_changed(disk: Disk) -> None:
    disk().put(some(range(1)))
    found = disk().get([key(0)])[key(0)]
    found.zero_()
    assert same(disk().get([key(0)]), some(range(1)))


def test_processes_see_what_others_put_later(disk: Disk) -> None:
    one, other = disk(), disk()
    assert other.get([key(0)]) == {}
    one.put(some(range(2)))
    assert same(other.get([key(0), key(1)]), some(range(2)))
    other.put(some(range(2, 4)))
    one.put(some(range(4, 6)))
    assert same(one.get(list(some(range(6)))), some(range(6)))


def test_nothing_is_written_twice(disk: Disk, tmp_path: Path) -> None:
    one, other = disk(), disk()
    one.put(some(range(3)))
    size = sum(path.stat().st_size for path in shards(tmp_path))
    other.put(some(range(3)))
    one.put(some(range(3)))
    assert sum(path.stat().st_size for path in shards(tmp_path)) == size


def test_networks_do_not_see_each_other(disk: Disk) -> None:
    disk("one").put(some(range(2)))
    assert disk("other").get([key(0)]) == {}


def test_asking_makes_no_directory(disk: Disk, tmp_path: Path) -> None:
    assert disk().get([key(0)]) == {}
    assert list(tmp_path.iterdir()) == []


# Bounds


def test_the_bound_holds_and_the_longest_unused_goes_first(disk: Disk, tmp_path: Path) -> None:
    record = 64 + 4 * 4 * 24
    limit = 10 * record + 100
    one = disk(limit_bytes=limit)
    for number in range(10):  # a shard each: a 64th of the bound is less than a record
        one.put(some(range(number, number + 1)))
    for age_s, path in zip((50, 60, 70, 40, 30, 20, 15, 10, 5, 0), shards(tmp_path), strict=True):
        os.utime(path, (time.time() - age_s - 100,) * 2)
    other = disk(limit_bytes=limit)
    assert same(other.get([key(1)]), some(range(1, 2)))  # used now
    one.put(some(range(10, 12)))
    assert sum(path.stat().st_size for path in shards(tmp_path)) <= limit
    assert disk().get([key(n) for n in range(12)]).keys() == {key(n) for n in (1, 3, 4, 5, 6, 7, 8, 9, 10, 11)}


def test_other_networks_make_room_too(disk: Disk, tmp_path: Path) -> None:
    limit = 3 * (64 + 4 * 4 * 24)
    disk("one", limit).put(some(range(3)))
    disk("other", limit).put(some(range(3)))
    assert disk("one").get([key(n) for n in range(3)]) == {}
    assert same(disk("other").get([key(n) for n in range(3)]), some(range(3)))
    assert [path.name for path in (tmp_path / "prefixes").iterdir() if path.is_dir()] == ["other"]


def test_what_is_larger_than_the_bound_is_not_kept(disk: Disk, tmp_path: Path) -> None:
    one = disk(limit_bytes=2000)
    one.put(some(range(1)))
    one.put({key(9): values(9, rows=40)})
    assert same(disk().get([key(0), key(9)]), some(range(1)))  # nor was room made for it


def test_who_reads_notices_that_shards_have_gone(disk: Disk, tmp_path: Path) -> None:
    one, reader = disk(), disk()
    one.put(some(range(2)))
    assert same(reader.get([key(0)]), some(range(1)))
    for path in shards(tmp_path):
        path.unlink()
    assert reader.get([key(7)]) == {}
    assert reader.get([key(0)]) == {}
    one.put(some(range(2)))
    assert same(reader.get([key(0), key(1)]), some(range(2)))


def test_a_shard_is_a_part_of_the_bound(disk: Disk, tmp_path: Path) -> None:
    one = disk(limit_bytes=SHARDS * 2000)
    for number in range(12):
        one.put(some(range(number, number + 1)))
    assert [path.stat().st_size // 448 for path in shards(tmp_path)] == [4, 4, 4]  # of 448 bytes a record
    assert same(disk().get([key(n) for n in range(12)]), some(range(12)))


# Damage


def damage(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize("offset", [70, 20, 0, 4 + 16, 4 + 16 + 8, 4 + 16 + 12])
def test_a_damaged_record_is_not_served_and_is_put_again(disk: Disk, tmp_path: Path, offset: int) -> None:
    """Values, key, magic, shape, checksums."""
    disk().put(some(range(3)))
    (path,) = shards(tmp_path)
    damage(path, 448 + offset, b"\xff\x00\xff")
    after = disk()
    found = after.get([key(n) for n in range(3)])
    assert key(1) not in found
    assert same(found, {k: v for k, v in some(range(3)).items() if k in found})
    after.put(some(range(3)))
    assert same(disk().get([key(n) for n in range(3)]), some(range(3)))
    assert same(after.get([key(n) for n in range(3)]), some(range(3)))


def test_what_rots_while_it_is_open_is_not_served(disk: Disk, tmp_path: Path) -> None:
    one = disk()
    one.put(some(range(2)))
    assert same(one.get([key(0), key(1)]), some(range(2)))
    damage(shards(tmp_path)[0], 100, b"rot")
    assert same(one.get([key(0), key(1)]), {key(1): values(1)})


@pytest.mark.parametrize("cut", [1, 64, 384, 400, 448, 500])
def test_a_torn_shard_is_not_appended_to(disk: Disk, tmp_path: Path, cut: int) -> None:
    disk().put(some(range(2)))
    (path,) = shards(tmp_path)
    os.truncate(path, 2 * 448 - cut)
    kept = path.read_bytes()
    after = disk()
    whole = 1 if cut <= 448 else 0
    assert same(after.get([key(0), key(1)]), some(range(whole)))
    after.put(some(range(3)))
    if cut != 448:  # at the end of a record it is not torn
        assert path.read_bytes() == kept
    assert same(disk().get([key(n) for n in range(3)]), some(range(3)))


# Others write at the same time, or are killed while they do

WRITERS = """
import os, sys, torch
from pathlib import Path
from fogtune.platform.learning.prefix_disk import DiskPrefixes

def write(root, limit_bytes, first, last, rows):
    disk = DiskPrefixes(Path(root), "one", limit_bytes)
    for start in range(first, last, 4):
        numbers = range(start, min(last, start + 4))
        generators = {n: torch.Generator().manual_seed(n) for n in numbers}
        disk.put({n.to_bytes(16, "little"): torch.randn(rows, 24, generator=g) for n, g in generators.items()})

for line in sys.stdin:
    verb, root, *numbers = line.split()
    if verb == "wait":
        print(os.waitpid(int(root), 0)[1], flush=True)
    elif pid := os.fork():
        print(pid, flush=True)
    else:
        write(root, *map(int, numbers))
        os._exit(0)
"""


class Writers:
    """Processes that write; a fork each, of one that has imported torch."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", WRITERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, root: Path, first: int, last: int, *, rows: int = 4, limit_bytes: int = LIMIT) -> int:
        """Let one put the prefixes `first` to `last`; its pid."""
        return self._ask(f"start {root} {limit_bytes} {first} {last} {rows}")

    def wait(self, pid: int) -> int:
        """What `waitpid` says of one."""
        return self._ask(f"wait {pid}")

    def close(self) -> None:
        self._parent.communicate()

    def _ask(self, line: str) -> int:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        print(line, file=self._parent.stdin, flush=True)
        return int(self._parent.stdout.readline())


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    made = Writers()
    yield made
    made.close()


def test_processes_write_at_once(disk: Disk, tmp_path: Path, writers: Writers) -> None:
    ranges = [(0, 120), (60, 180), (120, 240)]  # in part the same
    pids = [writers.start(tmp_path / "prefixes", *one) for one in ranges]
    reader = disk()
    keys = [key(n) for n in range(240)]
    for _ in range(20):
        assert all(torch.equal(found, values(keys.index(k))) for k, found in reader.get(keys).items())
    assert [writers.wait(pid) for pid in pids] == [0, 0, 0]
    assert same(reader.get(keys), some(range(240)))
    assert sum(path.stat().st_size for path in shards(tmp_path)) == 240 * 448


def test_processes_keep_the_bound_together(disk: Disk, tmp_path: Path, writers: Writers) -> None:
    limit = 50 * 448
    pids = [writers.start(tmp_path / "prefixes", 100 * i, 100 * i + 80, limit_bytes=limit) for i in range(3)]
    for _ in range(200):
        with suppress(FileNotFoundError):  # deleted while it was looked at
            assert sum(path.stat().st_size for path in shards(tmp_path)) <= limit
    assert [writers.wait(pid) for pid in pids] == [0, 0, 0]
    assert 40 * 448 <= sum(path.stat().st_size for path in shards(tmp_path)) <= limit


def test_a_process_killed_while_writing_harms_nobody(disk: Disk, tmp_path: Path, writers: Writers) -> None:
    total = 0
    for attempt in range(10):
        pid = writers.start(tmp_path / "prefixes", 0, 4000, rows=400)
        time.sleep(0.01 + 0.007 * attempt)
        os.kill(pid, signal.SIGKILL)
        assert writers.wait(pid) == signal.SIGKILL
        found = disk().get([key(n) for n in range(4000)])
        assert all(torch.equal(tensor, values(int.from_bytes(k, "little"), 400)) for k, tensor in found.items())
        assert len(found) >= total
        total = len(found)
    assert total
    begun = time.monotonic()
    disk().put(some(range(5000, 5004)))
    assert time.monotonic() - begun < prefix_disk.LOCK_S / 2  # a lock dies with who held it
    assert same(disk().get([key(n) for n in range(5000, 5004)]), some(range(5000, 5004)))


def test_a_full_disk_leaves_what_was_there(disk: Disk, tmp_path: Path) -> None:
    """A write that stops in the middle of a record raises, and takes nothing with it."""
    one = disk()
    one.put(some(range(2)))
    free = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 448 + 200, free[1]))  # Python ignores the signal that this brings
    try:
        with pytest.raises(OSError, match="File too large"):
            one.put(some(range(2, 10)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, free)
    assert [path.stat().st_size for path in shards(tmp_path)] == [2 * 448]
    assert same(disk().get([key(n) for n in range(10)]), some(range(2)))
    disk().put(some(range(2, 10)))
    assert same(disk().get([key(n) for n in range(10)]), some(range(10)))


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    disk = DiskPrefixes(tmp_path / "file" / "prefixes", "one", LIMIT)
    assert disk.get([key(0)]) == {}
    with pytest.raises(OSError, match="Not a directory"):
        disk.put(some(range(1)))


def test_a_writer_that_stands_still_is_not_waited_for(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr(prefix_disk, "LOCK_S", 0.05)
    one = disk()
    one.put(some(range(1)))
    with FileLock(tmp_path / "prefixes" / "lock"), pytest.raises(TimeoutError):
        one.put(some(range(1, 2)))
    assert same(one.get([key(0), key(1)]), some(range(1)))  # reading takes no lock
