"""Runs a federation on Ray: joins a cluster or starts one here, and talks to the coordinator actor."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.federation.local_runner import RoundResult
from fogtune.platform.federation.messages import Setup
from fogtune.platform.federation.snapshot import Snapshot

from .answers import get
from .coordinator import CoordinatorRemote


class RayRunner:
    """The driver's side; the federation's actors live as long as this runner."""

    def __init__(self, config: Config, namespace: str, on_stage: Callable[[str], None] = lambda _: None) -> None:
        """Start the federation's actors, all named in `namespace`, on the Ray that this process is connected to.

        If it is not connected yet, it joins `execution.address`, or starts Ray on this machine.

        Raises:
            InputError: the cluster cannot be joined, or data or weights cannot be used as configured.
            RunFailed: an actor died.
        """
        self._started_ray = not ray.is_initialized()
        self._round = 0
        self._coordinator: Any = None
        try:
            if self._started_ray:
                join(config.execution.address, namespace, on_stage)
            on_stage("starting actors, loading model and data")
            options = CoordinatorRemote.options(name="coordinator", namespace=namespace, num_cpus=0)
            self._coordinator = options.remote(config, namespace)
            self.setup: Setup = self._get(self._coordinator.start.remote())
        except BaseException:
            self.close()
            raise

    def round(self, number: int) -> RoundResult:
        self._round = number
        result: RoundResult = self._get(self._coordinator.round.remote(number))
        return result

    def snapshot(self) -> Snapshot:
        snapshot: Snapshot = self._get(self._coordinator.snapshot.remote())
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        self._get(self._coordinator.restore.remote(snapshot))

    def close(self) -> None:
        """End the federation's actors, and Ray if this runner started it or joined it."""
        if self._started_ray:
            ray.shutdown()
        elif self._coordinator is not None:
            ray.kill(self._coordinator)  # the other actors are its children and end with it

    def _get(self, ref: Any) -> Any:
        return get(ref, self._round)


def join(address: str | None, namespace: str, on_stage: Callable[[str], None]) -> None:
    # FogTune sends nothing to anybody; who wants Ray's usage statistics sets the variable.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's workers yield to every other process by default, and would hardly run beside one that computes.
    os.environ.setdefault("RAY_worker_niceness", "0")
    on_stage(f"joining Ray at {address}" if address else "starting Ray")
    if address is not None and address != "auto":
        _require_reachable(address)
    try:
        context = ray.init(
            address=address or "local", namespace=namespace, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, RayError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        if address is None:
            raise InputError("execution.runner", f"ray cannot start here ({reason}); allowed: ray, local") from error
        problem = f"{address!r} cannot be joined ({reason}); start a cluster with ray start"
        raise InputError("execution.address", problem) from error
    if context.dashboard_url:
        on_stage(f"Ray dashboard: http://{context.dashboard_url}")


def _require_reachable(address: str) -> None:
    """Ray itself tries an address for a minute, and then ends the process where nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError("execution.address", f"{address!r} given; allowed: auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        problem = f"{address!r} cannot be reached ({error}); start a cluster with ray start"
        raise InputError("execution.address", problem) from error
