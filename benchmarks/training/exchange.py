"""What all sides of a work read and write, as files in the work's folder. Knows nothing of any framework.

work.json     what the model is and how a client trains
rows.npz      x (rows, ...), y (rows,), and held_out: which rows are tested on
initial.npz   trained parameters before round 1, by the peers' names
orders.npz    who trains in which round, on which batches, in which order
final/<side>.npz    trained parameters after the last round
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Settings:
    """Of a work."""

    rounds: int
    clients: int
    optimizer: str
    """`sgd`, `adamw`, or `none`: clients return what they got."""
    learning_rate: float
    batch_size: int
    """Most rows of a batch."""
    classes: int
    channels: int
    """Numbers of a row."""
    width: int
    """What the head reads."""
    backbone: str | None
    """Folder of a Hugging Face transformer; without it the model is an MLP."""
    lora_blocks: list[int]
    """Blocks of the backbone with LoRA on query and value."""


class Orders:
    """Who trains what: (round, client) -> batches of rows, as one array with offsets."""

    def __init__(self, batches: Mapping[tuple[int, int], list[NDArray[np.int64]]]) -> None:
        self._batches = dict(batches)

    def clients(self, round_number: int) -> list[int]:
        """Who trains in a round, 1-based."""
        return [client for number, client in self._batches if number == round_number]

    def batches(self, round_number: int, client: int) -> list[NDArray[np.int64]]:
        """Rows of each step."""
        return self._batches[round_number, client]

    def samples(self, round_number: int, client: int) -> int:
        """Rows passed in a round: the weight of what the client sends."""
        return sum(map(len, self._batches[round_number, client]))

    def write(self, path: Path) -> None:
        batches = [batch for some in self._batches.values() for batch in some]
        np.savez(
            path,
            keys=np.array(list(self._batches), np.int64),
            counts=np.array([len(some) for some in self._batches.values()], np.int64),
            lengths=np.array([len(batch) for batch in batches], np.int64),
            rows=np.concatenate(batches) if batches else np.zeros(0, np.int64),
        )

    @classmethod
    def read(cls, path: Path) -> Orders:
        found = np.load(path)
        batches = iter(np.split(found["rows"], np.cumsum(found["lengths"])[:-1]))
        return cls(
            {
                (int(number), int(client)): [next(batches) for _ in range(count)]
                for (number, client), count in zip(found["keys"], found["counts"].tolist(), strict=True)
            }
        )


class Shared:
    """A work's folder, read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(**json.loads((folder / "work.json").read_text()))
        self.orders = Orders.read(folder / "orders.npz")
        rows = np.load(folder / "rows.npz")
        self.x, self.y, self.held_out = rows["x"], rows["y"], rows["held_out"]
        self.initial: Arrays = dict(np.load(folder / "initial.npz"))


def write_shared(
    folder: Path, settings: Settings, orders: Orders, initial: Arrays, x: Any, y: Any, held_out: Any
) -> None:
    (folder / "work.json").write_text(json.dumps(asdict(settings)))
    orders.write(folder / "orders.npz")
    np.savez(folder / "rows.npz", x=x, y=y, held_out=held_out)
    np.savez(folder / "initial.npz", **initial)


class Stopwatch:
    """When rounds began and ended, from the start of this process on."""

    def __init__(self) -> None:
        self._started_s = psutil.Process().create_time()
        self._times_s: list[float] = []

    def begin(self) -> None:
        """All is loaded, round 1 begins."""
        self._times_s = [time.time()]

    def round_ended(self) -> None:
        """And the next one begins."""
        self._times_s.append(time.time())

    def report(self, folder: Path, side: str, accuracy: float, final: Arrays, **more: Any) -> None:
        """Write the trained parameters, and the line that measure.py reads."""
        (folder / "final").mkdir(exist_ok=True)
        np.savez(folder / "final" / f"{side}.npz", **final)
        times = {"start_s": self._times_s[0] - self._started_s, "rounds_s": np.diff(self._times_s).tolist()}
        print(json.dumps({**times, "accuracy": accuracy, **more}), flush=True)
