"""The sides of the comparison: what runs each of them on a work, and in which environment."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from environments import python_of

HERE = Path(__file__).parent

Command = list[str | Path]

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "FLWR_TELEMETRY_ENABLED": "0"}
"""Of all of them. Threads are each side's own business."""


def _fogtune(side: str) -> Callable[[str, Path, int], Command]:
    return lambda work, folder, rounds: [sys.executable, HERE / "fogtune_side.py", work, folder, side, str(rounds)]


def _plain(processes: int) -> Callable[[str, Path, int], Command]:
    return lambda _, folder, rounds: [sys.executable, HERE / "plain_loop.py", folder, str(rounds), str(processes)]


def _pfl(processes: int) -> Callable[[str, Path, int], Command]:
    return lambda _, folder, rounds: [python_of("pfl"), HERE / "pfl_side.py", folder, str(rounds), str(processes)]


SIDES: dict[str, tuple[str, Callable[[str, Path, int], Command]]] = {
    "fogtune": ("FogTune", _fogtune("fogtune")),
    "fogtune-local": ("FogTune, one process", _fogtune("fogtune-local")),
    "fogtune-bf16": ("FogTune, bf16", _fogtune("fogtune-bf16")),
    "plain-1": ("plain loop, 1 process", _plain(1)),
    "plain-2": ("plain loop, 2 processes", _plain(2)),
    "pfl-1": ("pfl-research, 1 process", _pfl(1)),
    "pfl-2": ("pfl-research, 2 processes", _pfl(2)),
    "flower": (
        "Flower",
        lambda _, folder, rounds: [python_of("flower"), HERE / "flower_server.py", folder, str(rounds)],
    ),
    "floor": (
        "Ray's floor",
        lambda _, folder, rounds: [sys.executable, HERE / "ray_floor.py", folder, str(rounds)],
    ),
}
"""Name -> its name in tables, and (work, folder, rounds) -> its command."""
