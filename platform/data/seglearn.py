"""Shoulder exercises seen by a smartwatch (Burns et al., arXiv 1802.01489), as they ship in the package `seglearn`.

140 recordings at 50 Hz, one for each of 10 subjects, 7 exercises and 2 sides, six axes: acceleration in g (ax, ay, az)
and angular rate in rad/s (wx, wy, wz). They are cut into windows of 128 samples (2.56 s) with stride 64, whole windows
only: 3,605 of them, 226 to 433 a subject. Neighbours of one recording overlap by half.

The package holds them as a pickle, and a pickle runs code when it is read. So its SHA-256 is checked first, and what
it holds is kept as a plain .npz in the user's cache (platform/user_cache.py); where nothing can be written there, the
pickle is read each time.
"""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..user_cache import user_cache
from .assets import asset_bytes
from .table import Table

WINDOW = 128
STRIDE = 64

_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
_SIDES = ("left", "right")  # in the package 0 = left, 1 = right (seglearn/datasets.py)

# Mean and standard deviation of each axis over all samples of subjects 1 to 7, so that 8 to 10 can be held out:
#     x = np.concatenate([x for x, s in zip(data["X"], data["subject"]) if s <= 7]); x.mean(0), x.std(0)
_MEAN = np.array([-0.0110, 0.3846, -0.1390, 0.0209, -0.0049, 0.0163], np.float32)
_SCALE = np.array([0.9338, 0.5043, 0.5664, 1.0414, 2.5939, 1.1208], np.float32)


@dataclass(frozen=True)
class _Recordings:
    """R recordings, one after the other."""

    values: NDArray[np.float32]  # (sum of lengths, 6), in g and rad/s
    lengths: NDArray[np.int64]  # (R,)
    exercise: NDArray[np.str_]  # (R,)
    side: NDArray[np.str_]  # (R,)
    subject: NDArray[np.str_]  # (R,)


def load_seglearn() -> Table:
    """Table of 3,605 windows: modality `imu` (128, 6) of about unit scale, labels `exercise`, `side`, group subject.

    Exercises are named as in the package: ABD, ER, FEL, IR, PEN, ROW, TRAP; sides `left`, `right`; subjects "1" to
    "10". All windows are in the split `train`. Raises AssetMissing.
    """
    recordings = _recordings()
    scaled = (recordings.values - _MEAN) / _SCALE
    ends = np.cumsum(recordings.lengths)
    windows: list[NDArray[np.float32]] = []
    of: list[int] = []  # recording of each window
    for number, (end, length) in enumerate(zip(ends.tolist(), recordings.lengths.tolist(), strict=True)):
        starts = range(end - length, end - WINDOW + 1, STRIDE)
        windows += [scaled[start : start + WINDOW] for start in starts]
        of += [number] * len(starts)
    return Table(
        modalities={"imu": windows},
        labels={"exercise": recordings.exercise[of].tolist(), "side": recordings.side[of].tolist()},
        groups=recordings.subject[of].tolist(),
        splits={"train": np.arange(len(windows))},
    )


def _recordings() -> _Recordings:
    directory = user_cache()
    if directory is None:
        return _unpickle()
    path = directory / f"seglearn-{_SHA256[:12]}.npz"
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there yet, or damaged
        return _read(path)
    recordings = _unpickle()
    with suppress(OSError):
        _write(path, recordings)
    return recordings


def _unpickle() -> _Recordings:
    content = io.BytesIO(asset_bytes("seglearn", "data/watch_dataset.npy", _SHA256))
    data: dict[str, Any] = np.load(content, allow_pickle=True).item()
    return _Recordings(
        values=np.concatenate(data["X"]).astype(np.float32),
        lengths=np.array([len(series) for series in data["X"]]),
        exercise=np.array(data["y_labels"])[data["y"]],
        side=np.array(_SIDES)[data["side"].astype(int)],
        subject=data["subject"].astype(str),
    )


def _read(path: Path) -> _Recordings:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return _Recordings(**{name: arrays[name] for name in _Recordings.__dataclass_fields__})


def _write(path: Path, recordings: _Recordings) -> None:
    """The file appears whole or not at all, also when two processes write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False) as file:
        try:
            np.savez(file, **asdict(recordings))
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
