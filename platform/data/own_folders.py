"""Folders of the devices' own, and one with the held-out data, as one table: of those that lie on a machine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from ..config import FolderSource
from ..config.data import OWN
from ..errors import InputError
from .columns import joined
from .folder import load_folder
from .table import Table

HELD_OUT = "held_out"
"""Split of the rows that come from the folder with the held-out data."""


def load_own_folders(source: FolderSource, where: str, devices: Sequence[str], held_out: bool) -> Table:
    """Load the folders of some devices, whose ids are the natural groups, and that with the held-out data.

    Args:
        source: its path holds `{device}`, and it says where held-out data lie.
        where: how messages name it: `sources.imu`.
        devices: whose folders are read, in order.
        held_out: whether the held-out data are read, too; without devices they must be.

    Raises:
        InputError: a folder does not hold what the source says; it names the folder.
    """
    folders = [source.path.replace(OWN, device) for device in devices]
    if held_out:
        folders.append(source.held_out.path or "")
    tables = [_load(source.model_copy(update={"path": folder}), where) for folder in folders]
    rows = sum(map(len, tables[: len(devices)]))
    groups = [device for device, table in zip(devices, tables, strict=False) for _ in range(len(table))]
    return Table(
        modalities={name: joined([table.modalities[name] for table in tables]) for name in source.columns},
        labels={name: list(chain(*(table.labels[name] for table in tables))) for name in source.labels},
        groups=groups + [""] * (sum(map(len, tables)) - rows),
        splits={"train": np.arange(rows), HELD_OUT: np.arange(rows, sum(map(len, tables)))},
    )


def _load(source: FolderSource, where: str) -> Table:
    try:
        return load_folder(source, where)
    except InputError as error:
        raise InputError(error.where, f"{error.problem} (in {source.path})") from None
