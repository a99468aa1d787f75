"""Where a run's numbers go besides its own directory: tools that draw curves, named in `output.sinks`.

A sink is told of every round, once its files are written, under the round as step. The run does not depend on any: one
that fails is named in the log, once, and left out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.run.record import RoundRecord, Status

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes a run's numbers. What its methods raise is a reason to leave it out."""

    def round(self, number: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a round: name, parts separated by `/`, -> value."""

    def close(self, status: Status) -> None:
        """Nothing more comes now; a run that was stopped or has failed may come back later."""


def require(config: Config) -> None:
    """Raises InputError if the package of a sink is not installed."""
    for name in config.output.sinks:
        if find_spec(name) is None:
            problem = f"{name!r} needs a package that is not installed; pip install 'fogtune[{name}]'"
            raise InputError("output.sinks", problem)


@contextmanager
def sinks(config: Config, path: Path, first: int) -> Iterator[Callable[[RoundRecord], None]]:
    """Gives what tells all sinks of a round, within the block.

    Args:
        config: the run's.
        path: of the run's directory; its name is the run's id.
        first: the round that comes next; sinks that have it, or later ones, from before, show each once all the same.
    """
    opened: dict[str, Sink] = {}
    for kind in config.output.sinks:
        with _left_out(opened, kind):
            opened[kind] = _OPEN[kind](config, path, first)

    def tell(record: RoundRecord) -> None:
        for name, sink in list(opened.items()):
            with _left_out(opened, name):
                sink.round(record.round, numbers(record))

    status: Status = "failed"
    try:
        yield tell
        status = "completed"
    except KeyboardInterrupt:
        status = "stopped"
        raise
    finally:
        for name, sink in list(opened.items()):
            with _left_out(opened, name):
                sink.close(status)


def numbers(record: RoundRecord) -> dict[str, float]:
    """What sinks are told of a round; values that there are not, and that are not finite, are left out."""
    found: dict[str, float | None] = {
        "wall_s": record.wall_s,
        "virtual_time_s": record.virtual_time_s,
        "energy_j": record.energy_j,
        "participants": record.participants,
        "dropped": record.dropped,
        "updates_lost": record.updates_lost,
        "under_way": record.under_way,
    }
    found |= {f"failures/{failure}": count for failure, count in record.failures.items()}
    found |= {f"bytes/{link}": count for link, count in record.bytes.items()}
    found |= {f"loss/{task}": value for task, value in record.loss.items()}
    found |= {f"{metric}/{task}": value for task, metrics in record.tasks.items() for metric, value in metrics.items()}
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


@contextmanager
def _left_out(opened: dict[str, Sink], name: str) -> Iterator[None]:
    """Within the block a sink is used; if that fails, it is used no more. Whatever a tool may raise is no reason to
    lose a run."""
    try:
        yield
    except Exception as error:
        opened.pop(name, None)
        reason = " ".join(str(error).split())[:300]
        log.warning("output.sinks: %s is left out from here on: %s: %s", name, type(error).__name__, reason)


def _tensorboard(config: Config, path: Path, first: int) -> Sink:
    from .sink_tensorboard import TensorBoard

    return TensorBoard(config, path, first)


def _mlflow(config: Config, path: Path, _: int) -> Sink:
    from .sink_mlflow import MLflow

    return MLflow(config, path.name)


_OPEN: Mapping[str, Callable[[Config, Path, int], Sink]] = {"tensorboard": _tensorboard, "mlflow": _mlflow}
