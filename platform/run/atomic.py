"""Files that are written whole or not at all: a temporary beside the target, flushed to disk, then renamed over it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fogtune.platform.errors import RunFailed


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to. After the block it becomes `path`; if the block raises, nothing is left of it."""
    temporary = temporary_beside(path)
    try:
        yield temporary
        commit(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def required(path: Path, round_number: int) -> Iterator[None]:
    """Within the block files below `path` are written, without which the run cannot go on: RunFailed."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise RunFailed(round_number, f"{path} cannot be written: {reason}") from error


def write_text(path: Path, text: str) -> None:
    """`path` holds `text`, or, after a crash, what it held before."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def temporary_beside(path: Path) -> Path:
    """Where this process writes what `commit` will turn into `path`: hidden, in the same directory."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def commit(temporary: Path, path: Path) -> None:
    """Turns a closed temporary file, or a directory, into `path`, lastingly."""
    sync(temporary)
    os.replace(temporary, path)
    # Without this the rename itself may be lost with the power.
    sync(path.parent)


def sync(path: Path) -> None:
    """Flushes a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
