"""A disk without room fails a run in one line, and leaves what the run goes on from when there is room again."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import fogtune
from fogtune.platform.config import Config
from fogtune.platform.errors import RunFailed
from fogtune.platform.run import RunDirectory, atomic

MakeConfig = Callable[..., Config]
Left = Callable[[RunDirectory], object]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for a round or two of `tiny`."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a disk here")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_disk_that_is_full_and_then_larger(tiny: MakeConfig, small_disk: Path, tmp_path: Path, left: Left) -> None:
    changes = ("rounds=8", "output.keep_checkpoints=8")
    failed = fogtune.run(tiny(*changes, f"output.directory={small_disk}"))
    assert failed.status == "failed"
    error = failed.directory.info.error or ""
    assert f"{failed.directory.path} cannot be written: " in error
    assert "No space left on device" in error
    assert 0 < len(failed.directory.records()) < 8
    assert not [path for path in small_disk.rglob("*") if path.name.endswith(".tmp")]

    subprocess.run(["mount", "-o", "remount,size=64M", small_disk], check=True)
    resumed = fogtune.resume(failed.directory.path)
    assert resumed.status == "completed"
    whole = fogtune.run(tiny(*changes, f"output.directory={tmp_path / 'roomy'}"))
    assert left(resumed.directory) == left(whole.directory)


@pytest.fixture(scope="module")
def undisturbed(watches: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of two rounds."""
    return fogtune.run(watches("rounds=2", f"output.directory={tmp_path_factory.mktemp('runs')}")).directory


# The files in their order: topology, ledger, modules, summary and checkpoint of round 1 (8 to 17) and of round 2 (18 to
# 25), then the whole ledger and the end (26 to 29).
@pytest.mark.parametrize("nth", [8, 10, 12, 14, 16, 17, 24, 25, 26, 28])
def test_wherever_room_ends_nothing_that_was_finished_is_lost(
    watches: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: RunDirectory,
    left: Left,
    nth: int,
) -> None:
    sync, calls = atomic.sync, [0]

    def full(path: Path) -> None:
        """No room for the nth file, nor for any after it."""
        calls[0] += path.is_relative_to(tmp_path) and path != tmp_path
        if calls[0] >= nth:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        sync(path)

    with monkeypatch.context() as patched, suppress(RunFailed):  # which is raised where it cannot even be written down
        patched.setattr(atomic, "sync", full)
        assert fogtune.run(watches("rounds=2", f"output.directory={tmp_path}")).status == "failed"
    (path,) = tmp_path.iterdir()
    resumed = fogtune.resume(path)
    assert calls[0] >= nth
    assert resumed.status == "completed"
    assert left(resumed.directory) == left(undisturbed)
