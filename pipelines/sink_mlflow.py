"""A run's numbers as a run of MLflow, under its id, in the experiment `fogtune`.

Where that is, MLflow decides: `MLFLOW_TRACKING_URI`, else a database in the working directory. No server is needed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from fogtune.platform.config import Config
from fogtune.platform.run.record import Status

EXPERIMENT = "fogtune"
ROUND = "round"
"""The metric by which a run that goes on knows what MLflow has."""
MOST_PARAMS = 100
"""MLflow takes no more at once, and of each so many characters:"""
MOST_CHARACTERS = 6000

_STATUS: Mapping[Status, str] = {
    "running": "RUNNING",
    "completed": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
}


class MLflow:
    """Logs to MLflow. Rounds that it has already are not logged again: they come out the same, but for wall time."""

    def __init__(self, config: Config, run: str) -> None:
        """Args: the run's configuration, which becomes parameters, and its id. Raises what MLflow raises."""
        # Else MLflow tries a server that is away for many minutes, while the run waits.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        where = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)
        found = self._client.search_runs([where], f"attributes.run_name = '{run}'")
        mine = found[0] if found else self._client.create_run(where, run_name=run)
        self._id = mine.info.run_id
        self._done = int(mine.data.metrics.get(ROUND, 0))
        if found:
            self._client.update_run(self._id, _STATUS["running"])
            return
        params = (Param(name, value[:MOST_CHARACTERS]) for name, value in _flat(config.model_dump(mode="json")))
        while some := list(islice(params, MOST_PARAMS)):
            self._client.log_batch(self._id, params=some)

    def round(self, number: int, values: Mapping[str, float]) -> None:
        if number <= self._done:
            return
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        named = {**values, ROUND: float(number)}
        self._client.log_batch(self._id, [Metric(name, value, now_ms, number) for name, value in named.items()])
        self._done = number

    def close(self, status: Status) -> None:
        self._client.set_terminated(self._id, _STATUS[status])


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Fields of the configuration, named as on the command line: `devices.0.count`."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for i, item in enumerate(value):
            yield from _flat(item, f"{name}.{i}")
    else:
        yield name, str(value)
